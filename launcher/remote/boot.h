/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * boot.h - the first seconds of a line: a constant command becomes dsrun-agent of this build.
 *
 * The command that a host is asked to run is ds_boot_command, the same bytes for every host, job
 * and user; it is one /bin/sh script that reads what to do from its stdin:
 *
 *     launcher   FOLDER of the programs here \n
 *                BUILD NONCE AGENT-SHA256 AGENT-SIZE WORKER-SHA256 WORKER-SIZE \n
 *     host       \n DSRUN NONCE here \n          nothing was started or written so far
 *     launcher   go \n                           at once, or when every host is here
 *     host       \n DSRUN NONCE go \n            the agent runs from now on
 *                \n DSRUN NONCE put NAME \n      wants the bytes of NAME; then the next line
 *                \n DSRUN NONCE no REASON \n     it cannot be
 *
 * A hash of "-" leaves a program out: both, with --push never, so that what is installed runs
 * unseen and HELLO compares the builds; the worker, where none is needed.  With hashes a program
 * runs only when its bytes are those of the launcher's: in FOLDER, else in
 * ${XDG_CACHE_HOME:-~/.cache}/dsrun/BUILD, where it is put if it is missing.  What a login prints
 * before is dropped, as much as DS_MAX_BANNER_BYTES.
 *
 * A copy that breaks off leaves .NAME.NONCE in the cache folder; the next copy into it removes
 * those of the user that are an hour old, where the host has find(1).
 *
 * struct ds_boot is pure: bytes in, bytes out.
 *
 * Tests   tests/launcher/test_boot.c (the script itself, too)
 */
#ifndef DS_LAUNCHER_REMOTE_BOOT_H
#define DS_LAUNCHER_REMOTE_BOOT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/fsio.h"

extern const char ds_boot_command[];

enum { DS_BOOT_PROGRAMS = 2, DS_BOOT_LINE = 512 };

struct ds_boot_plan { /* the same for all hosts of an attempt */
    const char *folder, *build;
    struct ds_map program[DS_BOOT_PROGRAMS]; /* agent, worker; released: not to be pushed */
    char hash[DS_BOOT_PROGRAMS][65];         /* hex; "-": left out */
};

/* Map and hash the programs in `folder` (borrowed). */
int ds_boot_plan_open(struct ds_boot_plan *plan, const char *folder, const char *build, bool push,
                      bool worker, struct ds_error *err) DS_NODISCARD;
void ds_boot_plan_release(struct ds_boot_plan *plan);

struct ds_boot {
    const struct ds_boot_plan *plan;
    char nonce[33];
    char *request;           /* what the launcher says first; freed by release */
    const char *out;         /* to be sent next */
    size_t out_bytes;        /* of it */
    char line[DS_BOOT_LINE]; /* of the host, unfinished */
    size_t line_bytes, noise;
    bool held;   /* `go` was not said yet */
    bool here;   /* the host waits for it */
    bool pushed; /* something had to be sent */
};

/* `held`: the host waits until ds_boot_go(). */
int ds_boot_init(struct ds_boot *boot, const struct ds_boot_plan *plan, bool held,
                 struct ds_error *err) DS_NODISCARD;
void ds_boot_release(struct ds_boot *boot);

/* What the host wrote.  0: go on; 1: the agent runs, `*used` bytes were taken, the rest is frames;
 * -EHOSTUNREACH the host says no; -EPROTO. */
int ds_boot_feed(struct ds_boot *boot, const void *bytes, size_t len, size_t *used,
                 struct ds_error *err) DS_NODISCARD;

/* Let a held host that is here start its agent. */
void ds_boot_go(struct ds_boot *boot);

/* The first `n` bytes of boot->out are sent. */
void ds_boot_sent(struct ds_boot *boot, size_t n);

#endif
