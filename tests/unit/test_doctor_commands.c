#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "doctor_private.h"

static char client_id[] = "05cd6963-0000-0000-0000-000000000000", gcc_high[] = "outlook.office365.us", dod[] = "outlook-dod.office365.us",
	china[] = "partner.outlook.cn", worldwide[] = "outlook.office365.com";

static void is(char *text, const char *expected)
{
	assert_string_equal(text, expected);
	free(text);
}

/* exchange-online 7.2 to 7.4 */
static void test_worldwide(void **state)
{
	const struct credential_conf c = { .client_id = client_id, .imap_host = worldwide };

	(void)state;
	is(commands_consent(&c), "az ad app permission add --id 05cd6963-0000-0000-0000-000000000000 --api 00000002-0000-0ff1-ce00-000000000000 "
	    "--api-permissions 5e5addcd-3e8d-4e90-baf5-964efab2b20a=Role\n"
	    "az ad app permission admin-consent --id 05cd6963-0000-0000-0000-000000000000");
	is(commands_register(&c, "contoso.onmicrosoft.com", "0a1b"), "Connect-ExchangeOnline -Organization contoso.onmicrosoft.com\n"
	    "New-ServicePrincipal -AppId 05cd6963-0000-0000-0000-000000000000 -ObjectId 0a1b -DisplayName mailpolld");
	is(commands_permit(&c, "contoso.onmicrosoft.com", "a@contoso.com"), "Connect-ExchangeOnline -Organization contoso.onmicrosoft.com\n"
	    "Add-MailboxPermission -Identity \"a@contoso.com\" -User (Get-ServicePrincipal -Identity 05cd6963-0000-0000-0000-000000000000).Identity "
	    "-AccessRights FullAccess\n"
	    "Set-CASMailbox -Identity \"a@contoso.com\" -ImapEnabled $true");
}

static void test_other_clouds(void **state)
{
	const struct { char *imap_host; const char *connect, *azure; } cases[] = {
		{ gcc_high, "Connect-ExchangeOnline -Organization t -ExchangeEnvironmentName O365USGovGCCHigh\n", "az cloud set --name AzureUSGovernment\naz login --allow-no-subscriptions < /dev/null\naz ad " },
		{ dod, "Connect-ExchangeOnline -Organization t -ExchangeEnvironmentName O365USGovDoD\n", "az cloud set --name AzureUSGovernment\naz login --allow-no-subscriptions < /dev/null\naz ad " },
		{ china, "Connect-ExchangeOnline -Organization t -ExchangeEnvironmentName O365China\n", "az cloud set --name AzureChinaCloud\naz login --allow-no-subscriptions < /dev/null\naz ad " },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct credential_conf c = { .client_id = client_id, .imap_host = cases[i].imap_host };
		char *text = commands_find_mailbox(&c, "t", "a@b");

		assert_memory_equal(text, cases[i].connect, strlen(cases[i].connect));
		free(text);
		text = commands_consent(&c);
		assert_memory_equal(text, cases[i].azure, strlen(cases[i].azure));
		free(text);
	}
}

static void test_what_powershell_would_expand(void **state)
{
	const struct credential_conf c = { .client_id = client_id };

	(void)state;
	is(commands_find_mailbox(&c, "t", "o'brien$x`y@b"), "Connect-ExchangeOnline -Organization t\nGet-Mailbox -Identity \"o'brien`$x``y@b\"");
}

/* As for /srv/mail in the unit itself: written to, and not before what is mounted there. */
static void test_place_in_the_unit(void **state)
{
	(void)state;
	is(commands_unit_writable("u", "g", "/nonexistent/a b"), "install -d -o u -g g -m 0711 '/nonexistent/a b'\n"
	    "mkdir -p /etc/systemd/system/mailpolld.service.d\n"
	    "printf '%s\\n' '[Unit]' 'RequiresMountsFor=\"/nonexistent/a b\"' '[Service]' 'ReadWritePaths=\"/nonexistent/a b\"' "
	    ">> /etc/systemd/system/mailpolld.service.d/mail.conf\n"
	    "systemctl daemon-reload\n"
	    "systemctl try-restart mailpolld");
	is(commands_unit_writable("u", "g", "/usr"), "mkdir -p /etc/systemd/system/mailpolld.service.d\n"
	    "printf '%s\\n' '[Unit]' RequiresMountsFor=/usr '[Service]' ReadWritePaths=/usr >> /etc/systemd/system/mailpolld.service.d/mail.conf\n"
	    "systemctl daemon-reload\n"
	    "systemctl try-restart mailpolld");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_worldwide), cmocka_unit_test(test_other_clouds),
		cmocka_unit_test(test_what_powershell_would_expand), cmocka_unit_test(test_place_in_the_unit) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
