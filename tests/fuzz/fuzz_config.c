/* Any bytes as a configuration: a tree or an error with its position, and the same for a whole configuration. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config.h"
#include "config_yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];

static void write_file(const uint8_t *data, size_t size)
{
	FILE *f;

	if (path[0] == '\0') {
		strcpy(path, "/tmp/fuzz_config.XXXXXX");
		close(mkstemp(path));
		setenv("STATE_DIRECTORY", "/nowhere", 1);
		setenv("RUNTIME_DIRECTORY", "/nowhere", 1);
	}
	f = fopen(path, "w");
	if (f == NULL || fwrite(data, 1, size, f) != size || fclose(f) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_messages errors = { 0 }, warnings = { 0 };
	struct node *root = node_parse("fuzz", (const char *)data, size, &errors);
	struct config *config;

	if ((root == NULL) != (errors.n > 0))
		abort();
	node_free(&root);
	config_messages_done(&errors);
	write_file(data, size);
	config = config_load(path, &errors, &warnings);
	if ((config == NULL) != (errors.n > 0))
		abort();
	for (size_t i = 0; config != NULL && i < config->n_mailboxes; i++) {
		struct mailbox_conf *copy = mailbox_conf_dup(config->mailboxes[i]);

		if (!mailbox_conf_equal(copy, config->mailboxes[i]))
			abort();
		mailbox_conf_free(&copy);
	}
	config_free(&config);
	config_messages_done(&errors);
	config_messages_done(&warnings);
	return 0;
}
