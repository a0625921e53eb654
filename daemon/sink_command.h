/* sink_command.h - delivery to a command's standard input. Exit 0: delivered; 65 (EX_DATAERR): refused; all else,
 * signals and the time limit included: temporary. At least once, with the same MAILPOLLD_KEY on every attempt. */
#pragma once
#include "sink_driver.h"

extern const struct sink_driver sink_command_driver;
