/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * signals.h - which signals ask a program that a person started to stop.
 *
 * Tests   tests/e2e/desk.py
 */
#ifndef DS_LAUNCHER_SIGNALS_H
#define DS_LAUNCHER_SIGNALS_H

#include <signal.h>

/* SIGINT, SIGTERM, and SIGHUP unless it was ignored when the program was started: that is what
 * nohup(1) does so that the end of a login is not the end of a job.  To be asked before anything
 * is blocked: an ignored signal that is blocked is delivered to a signalfd. */
void ds_signals_stop(sigset_t *set);

#endif
