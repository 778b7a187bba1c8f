/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * tokenize.h - what commands that tokenize share: one live line, signals, and the text of a job.
 *
 * Tests   tests/e2e/tokenizer.py
 */
#ifndef DS_CLI_TOKENIZE_H
#define DS_CLI_TOKENIZE_H

#include <signal.h>

#include "cli/cli.h"
#include "runtime/data/corpus.h"
#include "runtime/job.h"

enum { DS_CLI_TOKENIZE_SIGNALS = 3 };

struct ds_cli_tokenizing {
    bool draw; /* on a terminal */
    uint64_t start_ns, drawn_ns, end_ns;
    struct sigaction before[DS_CLI_TOKENIZE_SIGNALS];
};

/* Between the two the first SIGINT, SIGTERM or SIGHUP that is not ignored stops the work, in order,
 * and a second one kills. */
void ds_cli_tokenizing_begin(struct ds_cli_tokenizing *t, bool quiet);
void ds_cli_tokenizing_end(struct ds_cli_tokenizing *t);
/* For go_on of corpus.h. */
bool ds_cli_tokenizing_go_on(void *user, const struct ds_corpus_count *count);
/* The signal that has stopped it; 0: none. */
int ds_cli_tokenizing_signal(void);

double ds_cli_tokenizing_s(const struct ds_cli_tokenizing *t); /* from begin to end, or till now */
/* MB of input a second. */
double ds_cli_tokenizing_rate(const struct ds_cli_tokenizing *t,
                              const struct ds_corpus_count *count);

/* Cores that this process may use, at most DS_MAX_THREADS. */
unsigned ds_cli_own_cores(void);

/* `ranks` becomes `job` as ranks read it, in job's arena: where it has a tokenizer, with files of
 * ids in its run directory in the place of its text, which are made where they are not there.  The
 * tokenizer's file is kept beside them. */
int ds_cli_tokenize_job(const struct ds_cli *cli, struct ds_job *job, struct ds_job *ranks,
                        struct ds_error *err) DS_NODISCARD;
/* The same without data.valid, and without the tokenizer's file; `look`: nothing is made, -ENOENT
 * where it would be. */
int ds_cli_tokenize_train(const struct ds_cli *cli, struct ds_job *job, bool look,
                          struct ds_job *ranks, struct ds_error *err) DS_NODISCARD;

/* Of a job whose data has ids already, and whose model is a folder of Hugging Face's that has their
 * tokenizer: its file is kept in the run directory, which must be there. */
int ds_cli_keep_base_tokenizer(const struct ds_job *job, struct ds_error *err) DS_NODISCARD;

#endif
