/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * opt.h - the command line: one table of commands, one of options.
 *
 * The same rows give the parser, --help, shell completion, the dispatch in
 * dsrun.c and the tables of dsrun(1).  An option is a key (base/keys.h) with a
 * letter and the commands that take it, so that its bounds and messages are
 * made like those of the job file.
 *
 *     dsrun [OPTIONS] JOB.yaml [key=value ...]      the same as `dsrun run`
 *     dsrun [OPTIONS] COMMAND [OPTIONS] WORDS ...
 *
 * Options may stand anywhere before `--`, or before the PROGRAM of a command that takes one:
 * `--name VALUE`, `--name=VALUE`,
 * `-x VALUE`, `-xVALUE`; letters without a value may share a dash.  A first word
 * that is no command is a job file, unless it looks like a misspelt command (no
 * '.' and no '/' in it).
 *
 * Tests   tests/cli/test_opt.c; of the completion tests/e2e/manual.py
 */
#ifndef DS_CLI_OPT_H
#define DS_CLI_OPT_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/keys.h"
#include "cli/cli.h"

enum { DS_WORDS_MAX = 1000000 }; /* "any number" of words */

/* X(id, name, function, words, fewest, most, what it does). */
/* clang-format off */
#define DS_COMMANDS(X) \
    X(RUN, "run", ds_cmd_run, "JOB.yaml [key=value ...]", 1, DS_WORDS_MAX, \
      "train; each key=value overrides one key of the job") \
    X(EVAL, "eval", ds_cmd_eval, "JOB.yaml [key=value ...]", 1, DS_WORDS_MAX, \
      "evaluate the weights of a job, or of its newest checkpoint, on data.valid") \
    X(CHECK, "check", ds_cmd_check, "JOB.yaml [key=value ...]", 1, DS_WORDS_MAX, \
      "check job and hosts; print nothing but errors") \
    X(PLAN, "plan", ds_cmd_plan, "JOB.yaml [key=value ...]", 1, DS_WORDS_MAX, \
      "print placement, memory, messages and FLOPs of a job") \
    X(LAUNCH, "launch", ds_cmd_launch, "[--] PROGRAM [ARGS ...]", 1, DS_WORDS_MAX, \
      "run any program as ranks, with the variables that torchrun sets") \
    X(EXEC, "exec", ds_cmd_exec, "[--] PROGRAM [ARGS ...]", 1, DS_WORDS_MAX, \
      "run a program once on every host; output that is the same is shown once") \
    X(HOSTS, "hosts", ds_cmd_hosts, "", 0, 0, \
      "ask every host what it is; say first where hosts differ") \
    X(HOSTS_TRUST, "hosts trust", ds_cmd_trust, "", 0, 0, \
      "show the keys of hosts that are not known yet; record them on yes") \
    X(JOIN, "join", ds_cmd_join, "LAUNCHER[:PORT]", 0, 1, \
      "wait for a launcher that runs with --via join, and serve its jobs on this host") \
    X(PS, "ps", ds_cmd_ps, "", 0, 0, "list the jobs of this user that run on this machine") \
    X(LOGS, "logs", ds_cmd_logs, "JOB|RUN_DIR", 1, 1, \
      "show what the ranks of a job wrote, the last lines of each") \
    X(ATTACH, "attach", ds_cmd_attach, "JOB|RUN_DIR", 1, 1, \
      "show the progress of a running job as its own console does; end with its code") \
    X(KILL, "kill", ds_cmd_kill, "JOB", 1, 1, \
      "stop a job, by its number or name: every rank saves; a second time kills") \
    X(CKPT_LS, "ckpt ls", ds_cmd_ckpt, "RUN_DIR", 1, 1, \
      "list the checkpoints of a run: step, size, whole or damaged") \
    X(CKPT_VERIFY, "ckpt verify", ds_cmd_ckpt, "CKPT", 1, 1, \
      "read every byte of a checkpoint and compare every checksum") \
    X(CKPT_EXPORT, "ckpt export", ds_cmd_ckpt, "CKPT OUT_DIR", 2, 2, \
      "write a checkpoint as a Hugging Face folder") \
    X(CKPT_IMPORT, "ckpt import", ds_cmd_ckpt, "HF_DIR CKPT", 2, 2, \
      "make a checkpoint at step 0 of a Hugging Face folder") \
    X(CKPT_DIFF, "ckpt diff", ds_cmd_ckpt, "CKPT CKPT", 2, 2, \
      "compare two checkpoints: the tensors that differ, the most different first") \
    X(BENCH_GEMM, "bench gemm", ds_cmd_bench, "", 0, 0, \
      "measure the matrix products of this machine") \
    X(BENCH_MACHINE, "bench machine", ds_cmd_bench, "[RANKS]", 0, 1, \
      "measure this machine for plan and tune: a cluster file, on standard output") \
    X(BENCH_COMM, "bench comm", ds_cmd_bench, "[RANKS]", 0, 1, \
      "measure the collectives of this machine, in memory and over TCP") \
    X(BENCH_IO, "bench io", ds_cmd_bench, "[DIR]", 0, 1, \
      "measure the disk of a folder, as offload.optim: nvme uses it") \
    X(DATA_TOKENIZE, "data tokenize", ds_cmd_data, "OUT.bin FILE ...", 2, DS_WORDS_MAX, \
      "turn files of text into a file of token ids") \
    X(DATA_INSPECT, "data inspect", ds_cmd_data, "FILE", 1, 1, \
      "say what a file of token ids holds") \
    X(GENERATE, "generate", ds_cmd_generate, "CKPT|RUN_DIR", 1, 1, \
      "sample text from a checkpoint, as it goes on from a prompt") \
    X(REPORT, "report", ds_cmd_report, "JOB|RUN_DIR", 1, 1, \
      "write one page about a run: its plots, events, checkpoints and job file") \
    X(CONVERT, "convert", ds_cmd_convert, "CONFIG.json [key=value ...]", 1, DS_WORDS_MAX, \
      "turn a DeepSpeed configuration into a job file; name what is not here") \
    X(TUNE, "tune", ds_cmd_tune, "JOB.yaml [key=value ...]", 1, DS_WORDS_MAX, \
      "rank the layouts of a job by prediction, try the best few")
/* clang-format on */

enum ds_command_id {
#define X(id, name, fn, words, fewest, most, help) DS_COMMAND_##id,
    DS_COMMANDS(X)
#undef X
        DS_COMMAND_COUNT
};

struct ds_command {
    const char *name;  /* "ckpt ls" */
    const char *words; /* after the name */
    size_t fewest, most;
    const char *help;
};

struct ds_option {
    struct ds_key key; /* path: "--slots"; BOOL takes no value; LIST may be repeated */
    char letter;       /* 0: none */
    const char *value; /* its name in the help */
    uint32_t commands; /* bit per enum ds_command_id; 0: every one */
};

extern const struct ds_command ds_commands[DS_COMMAND_COUNT];
const struct ds_option *ds_options(size_t *count);

/* Read the command line into `cli`; lists and numbers live in `arena`, texts are argv's.  With
 * --help, --version or --completion the words are not checked.  `*command` is the row, or NULL when
 * no command was named (for --help).  -EINVAL and -ENOTSUP are usage errors, exit code 2. */
int ds_opt_parse(int argc, char **argv, struct ds_arena *arena, struct ds_cli *cli,
                 const struct ds_command **command, struct ds_error *err) DS_NODISCARD;

/* Ours for an option of another launcher, with _ for - and a number at its end allowed; or NULL. */
const char *ds__opt_elsewhere(const char *word);

/* The text of --help: of one command; when that is NULL of the commands that begin with the word
 * `group`, or of all where none does or it is NULL. */
void ds_help_print(const struct ds_command *command, const char *group, struct ds_buf *out);

/* Does the command's name start with `word` as a whole word? */
bool ds_command_starts(const struct ds_command *command, const char *word);

/* The completion script for `shell`, "bash" or "zsh"; `keys` are the job's. */
void ds_completion_print(const char *shell, const struct ds_key *keys, size_t count,
                         struct ds_buf *out);

/* "dsrun 0.1.0" and the build id of this program. */
void ds_version_print(struct ds_buf *out);

#endif
