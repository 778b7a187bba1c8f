/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * signals.h - which signals ask a program that a person started to stop, and which are for others.
 *
 * Tests   tests/e2e/desk.py, tests/e2e/launch.py
 */
#ifndef DS_LAUNCHER_SIGNALS_H
#define DS_LAUNCHER_SIGNALS_H

#include <signal.h>
#include <stdint.h>

/* SIGINT, SIGTERM, and SIGHUP unless it was ignored when the program was started: that is what
 * nohup(1) does so that the end of a login is not the end of a job.  To be asked before anything
 * is blocked: an ignored signal that is blocked is delivered to a signalfd. */
void ds_signals_stop(sigset_t *set);

/* What an agent and its guard listen to: SIGCHLD, those that stop, and those that Slurm sends to
 * every process of a step. */
void ds_signals_agent(sigset_t *set);

/* The signal that a program is sent for `what`, an enum ds_wire_signal of its own; else 0. */
int ds_signals_own(uint32_t what);

#endif
