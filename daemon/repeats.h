/* repeats.h - the same failure over and over is told at once when it is another one than before, then each hour with how often it came
 * meanwhile. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "clock.h"

struct repeats {			/* zeroed: nothing has failed */
	const char *name;		/* of the last one; lent */
	msec_t told_ms;
	unsigned untold;		/* times since then */
};

/* It has come (again): is it to be told? name is static, or lives as long. ret_untold: how often it came since it was last told. */
bool repeats_tell(struct repeats *, const char *name, unsigned *ret_untold);
bool repeats_over(struct repeats *);	/* it has not come any more; false: there was none */
/* The value of the field REPEATED, written into room; NULL: there is none. */
const char *repeats_text(unsigned untold, char *room, size_t size);
