/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cli.h - what the command line said, and the commands that act on it.
 *
 * One table of options and one of commands (opt.c) give the parser, --help, shell completion and
 * the manual page.  A command returns the exit code of the program; it prints its own errors with
 * ds_log().
 *
 * Tests   tests/cli/
 */
#ifndef DS_CLI_CLI_H
#define DS_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "runtime/data/reader.h" /* enum ds_text_format */
#include "runtime/job.h"         /* enum ds_device_kind */

enum ds_color { DS_COLOR_AUTO, DS_COLOR_ALWAYS, DS_COLOR_NEVER };
enum ds_via { DS_VIA_AUTO, DS_VIA_LOCAL, DS_VIA_SSH, DS_VIA_OPENSSH, DS_VIA_SLURM, DS_VIA_JOIN };

struct ds_cli {          /* borrowed from argv; plain data */
    const char *command; /* the name in the table of commands: "run", "ckpt ls" */
    const char *hostfile, *include, *exclude, *run_dir, *dtype, *base;
    bool adapters;
    const char *cluster, *timeline;
    uint64_t nodes, slots;                        /* 0: not given */
    uint64_t least_nodes;                         /* of MIN:MAX, else `nodes`, which is MAX */
    int64_t trials;                               /* -1: not given */
    int64_t restarts;                             /* -1: not given */
    unsigned restart_on;                          /* enum ds_cause, or'ed; 0: not given */
    double grace_s, start_timeout_s, heartbeat_s; /* < 0: not given */
    double restart_backoff_s, wait_s;             /* the same */
    const char *join_listen, *join_key, *name;    /* NULL: not given */
    bool make_key;
    enum ds_via via;
    unsigned push; /* enum ds_push */
    enum ds_color color;
    bool dry_run, json, quiet, verbose, schedule;
    bool implied;           /* no command was named, it is run */
    bool help, version;     /* printed by main, no command runs */
    const char *completion; /* "bash", "zsh": print the script; by main too */
    const char **env;       /* NAME, NAME=VALUE or a pattern of names */
    size_t envs;
    const char **env_file; /* paths */
    size_t env_files;
    const char **srun_arg; /* not checked yet */
    size_t srun_args;
    const char *cwd; /* where programs run; NULL: not given */
    bool live;       /* show lines as they come */
    int64_t rank;    /* -1: not given */
    int64_t lines;   /* -1: not given */
    bool follow;
    const char *tokenizer, *text_key, *prompt_key, *chat, *eot; /* NULL: not given */
    enum ds_text_format text_format;
    uint64_t threads, at, sequence; /* 0: not given */
    int64_t count;                  /* -1: not given */
    bool force, pack;
    const char *output;                                /* NULL: not given */
    const char *prompt, *prompt_file, *prompts, *stop; /* NULL: not given */
    uint64_t max_tokens, top_k, seed, batch;           /* 0: not given */
    double temperature, top_p;                         /* < 0: not given */
    bool echo;
    unsigned device;  /* enum ds_device_kind */
    const char **arg; /* positional words after the command's name */
    size_t args;
};

int ds_cmd_run(const struct ds_cli *cli);      /* cmd_run.c */
int ds_cmd_check(const struct ds_cli *cli);    /* cmd_check.c */
int ds_cmd_plan(const struct ds_cli *cli);     /* cmd_plan.c */
int ds_cmd_tune(const struct ds_cli *cli);     /* cmd_tune.c */
int ds_cmd_eval(const struct ds_cli *cli);     /* cmd_eval.c */
int ds_cmd_ckpt(const struct ds_cli *cli);     /* cmd_ckpt.c: ls verify export import */
int ds_cmd_exec(const struct ds_cli *cli);     /* cmd_exec.c */
int ds_cmd_hosts(const struct ds_cli *cli);    /* cmd_hosts.c */
int ds_cmd_trust(const struct ds_cli *cli);    /* cmd_trust.c: hosts trust */
int ds_cmd_launch(const struct ds_cli *cli);   /* cmd_launch.c */
int ds_cmd_bench(const struct ds_cli *cli);    /* cmd_bench.c */
int ds_cmd_ps(const struct ds_cli *cli);       /* cmd_ps.c */
int ds_cmd_kill(const struct ds_cli *cli);     /* cmd_ps.c */
int ds_cmd_logs(const struct ds_cli *cli);     /* cmd_logs.c */
int ds_cmd_attach(const struct ds_cli *cli);   /* cmd_attach.c */
int ds_cmd_join(const struct ds_cli *cli);     /* cmd_join.c */
int ds_cmd_data(const struct ds_cli *cli);     /* cmd_data.c: tokenize inspect */
int ds_cmd_generate(const struct ds_cli *cli); /* cmd_generate.c */
int ds_cmd_convert(const struct ds_cli *cli);  /* cmd_convert.c */
int ds_cmd_report(const struct ds_cli *cli);   /* cmd_report.c */

/* Load the job named by arg[0] with the overrides arg[1..]; --slots, --run-dir, --restarts and
 * --heartbeat are
 * applied. */
struct ds_job;
int ds_cli_load_job(const struct ds_cli *cli, struct ds_job *job, struct ds_error *err)
    DS_NODISCARD;

/* The resolved job for job.yaml, which others may read: of launch.env the names alone, in a comment
 * at the top. */
struct ds_buf;
int ds_cli_job_record(const struct ds_job *job, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* The keys that decide the result and are not what the last run in `run_dir` had, as a sentence;
 * nothing where there was none or its job.yaml cannot be read. */
void ds_cli_job_changes(const struct ds_job *job, const char *run_dir, struct ds_buf *out);

/* Path of a program that dsrun starts: in the folder DSRUN_LIBEXEC, else in ../libexec/dsrun beside
 * dsrun itself.  out[DS_MAX_PATH]; an empty name gives the folder. */
int ds_cli_libexec(char *out, const char *program, struct ds_error *err) DS_NODISCARD;

/* Is colour wanted on this descriptor?  --color, then NO_COLOR, TERM=dumb, isatty. */
bool ds_cli_color(const struct ds_cli *cli, int fd);

#endif
