#include <stdio.h>
#include <string.h>
#include "repeats.h"

#define TELL_AGAIN_MS (60 * 60 * 1000)

bool repeats_tell(struct repeats *r, const char *name, unsigned *ret_untold)
{
	bool same = r->name != NULL && strcmp(r->name, name) == 0;

	*ret_untold = same ? r->untold : 0;
	if (same && clock_now_ms() - r->told_ms < TELL_AGAIN_MS) {
		r->untold++;
		return false;
	}
	*r = (struct repeats){ .name = name, .told_ms = clock_now_ms() };
	return true;
}

bool repeats_over(struct repeats *r)
{
	bool was = r->name != NULL;

	*r = (struct repeats){ 0 };
	return was;
}

const char *repeats_text(unsigned untold, char *room, size_t size)
{
	snprintf(room, size, "%u", untold);
	return untold > 0 ? room : NULL;
}
