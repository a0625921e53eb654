/* quarantine_private.h - what the two files of the quarantine share. Nobody else includes it. */
#pragma once

char *quarantine_name(const char *key);		/* of its files, without the suffix; caller frees */
