/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_opt.c - command lines, right and wrong; help, completion and version from the tables.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/causes.h"
#include "cli/opt.h"
#include "runtime/job_table.h"

enum { WORDS = 12 };

struct line { /* a command line at work */
    struct ds_arena arena;
    struct ds_cli cli;
    const struct ds_command *command;
    struct ds_error err;
    int rc;
};

/* Parse "dsrun" and the words up to the first NULL. */
static void parse(struct line *line, const char *const *words)
{
    char *argv[WORDS + 2] = {0};
    int argc = 0;

    memset(line, 0, sizeof(*line));
    ds_arena_init(&line->arena);
    for (int i = 0; i <= WORDS && (i == 0 || words[i - 1] != NULL); i++) {
        char *word = ds_arena_strdup(&line->arena, i == 0 ? "dsrun" : words[i - 1]);

        cr_assert(word != NULL);
        argv[argc++] = word;
    }
    line->rc = ds_opt_parse(argc, argv, &line->arena, &line->cli, &line->command, &line->err);
}

#define PARSE(line, ...) parse((line), (const char *const[WORDS + 1]){__VA_ARGS__})

/* clang-format off */
static const struct wrong {
    const char *words[WORDS + 1];
    int code;
    const char *message;
} wrongs[] = {
    {{NULL}, EINVAL, "no job file is given; try 'dsrun JOB.yaml' or 'dsrun --help'"},
    {{"-q"}, EINVAL, "no job file is given; try 'dsrun JOB.yaml' or 'dsrun --help'"},
    {{"--"}, EINVAL, "no job file is given; try 'dsrun JOB.yaml' or 'dsrun --help'"},
    {{"run"}, EINVAL, "a word is missing; the command is 'dsrun run JOB.yaml [key=value ...]'"},
    {{"check"}, EINVAL, "a word is missing; the command is 'dsrun check JOB.yaml [key=value ...]'"},
    {{"ckpt", "export", "a"}, EINVAL, "a word is missing; the command is 'dsrun ckpt export CKPT OUT_DIR'"},
    {{"ckpt", "ls", "a", "b"}, EINVAL, "unexpected word 'b'; the command is 'dsrun ckpt ls RUN_DIR'"},
    {{"bench", "gemm", "x"}, EINVAL, "unexpected word 'x'; the command is 'dsrun bench gemm'"},
    {{"j.yaml", "foo"}, EINVAL, "unexpected word 'foo'; after the job come key=value words"},
    {{"run", "j.yaml", "a=b", "foo"}, EINVAL, "unexpected word 'foo'; after the job come key=value words"},
    {{"chek", "j.yaml"}, EINVAL, "unknown command 'chek', did you mean 'check'?"},
    {{"rn"}, EINVAL, "unknown command 'rn', did you mean 'run'?"},
    {{"ckpt"}, EINVAL, "'ckpt' needs a second word: 'ckpt ls', 'ckpt verify', 'ckpt export', 'ckpt import', 'ckpt diff'"},
    {{"ckpt", "sl"}, EINVAL, "unknown command 'ckpt sl'; there are 'ckpt ls', 'ckpt verify', 'ckpt export', 'ckpt import', 'ckpt diff'"},
    {{"bench"}, EINVAL, "'bench' needs a second word: 'bench gemm', 'bench machine', 'bench comm', 'bench io'"},
    {{"launch", "--live", "true"}, EINVAL, "option '--live' does not go with 'launch'"},
    {{"exec"}, EINVAL, "a word is missing; the command is 'dsrun exec [--] PROGRAM [ARGS ...]'"},
    {{"exec", ""}, EINVAL, "the program's name is empty"},
    {{"launch", "--", "", "x"}, EINVAL, "the program's name is empty"},
    {{"exec", "--"}, EINVAL, "a word is missing; the command is 'dsrun exec [--] PROGRAM [ARGS ...]'"},
    {{"exec", "--slots", "2", "true"}, EINVAL, "option '--slots' does not go with 'exec'"},
    {{"exec", "--restarts=2", "true"}, EINVAL, "option '--restarts' does not go with 'exec'"},
    {{"exec", "--run-dir=r", "true"}, EINVAL, "option '--run-dir' does not go with 'exec'"},
    {{"j.yaml", "--live"}, EINVAL, "option '--live' does not go with 'run'"},
    {{"j.yaml", "--cwd", "/"}, EINVAL, "option '--cwd' does not go with 'run'"},
    {{"--env-file=", "j.yaml"}, EINVAL, "'--env-file' has no value; it must be text"},
    {{"--env", "A-*", "ckpt", "ls", "x"}, EINVAL, "option '--env' does not go with 'ckpt ls'"},
    {{"--env", "A*=x", "j.yaml"}, EINVAL, "'--env' must be NAME or NAME=VALUE, not 'A*=...'"},
    {{"hosts", "x"}, EINVAL, "unexpected word 'x'; the command is 'dsrun hosts'"},
    {{"hosts", "turst"}, EINVAL, "unexpected word 'turst', did you mean 'hosts trust'?"},
    {{"help", "run"}, EINVAL, "unknown command 'help'; 'dsrun --help' lists them"},
    {{"j.yaml", "run"}, EINVAL, "unexpected word 'run'; after the job come key=value words"},
    {{"hosts", "--slots", "2"}, EINVAL, "option '--slots' does not go with 'hosts'"},
    {{"hosts", "trust", "x"}, EINVAL, "unexpected word 'x'; the command is 'dsrun hosts trust'"},
    {{"hosts", "trust", "--json"}, EINVAL, "option '--json' does not go with 'hosts trust'"},
    {{"bench", "io", "a", "b"}, EINVAL, "unexpected word 'b'; the command is 'dsrun bench io [DIR]'"},
    {{"data"}, EINVAL, "'data' needs a second word: 'data tokenize', 'data inspect'"},
    {{"data", "inspect"}, EINVAL, "a word is missing; the command is 'dsrun data inspect FILE'"},
    {{"data", "tokenize", "out.bin"}, EINVAL, "a word is missing; the command is 'dsrun data tokenize OUT.bin FILE ...'"},
    {{"report"}, EINVAL, "a word is missing; the command is 'dsrun report JOB|RUN_DIR'"},
    {{"report", "--json", "x"}, EINVAL, "option '--json' does not go with 'report'"},
    {{"convert"}, EINVAL, "a word is missing; the command is 'dsrun convert CONFIG.json [key=value ...]'"},
    {{"convert", "--restarts", "5", "c.json"}, EINVAL, "option '--restarts' does not go with 'convert'"},
    {{"launch", "--nproc_per_node=2", "x"}, EINVAL, "unknown option '--nproc_per_node', which is '--slots' here"},
    {{"launch", "--nproc-per-node", "2", "x"}, EINVAL, "unknown option '--nproc-per-node', which is '--slots' here"},
    {{"launch", "--nnodes=2", "x"}, EINVAL, "unknown option '--nnodes', which is '--nodes N|MIN:MAX' here"},
    {{"launch", "--nnodes", "2:4", "x"}, EINVAL, "unknown option '--nnodes', which is '--nodes N|MIN:MAX' here"},
    {{"launch", "--max_elastic_nodes=4", "x"}, EINVAL, "unknown option '--max_elastic_nodes', which is '--nodes MIN:MAX' here"},
    {{"launch", "-np", "2", "x"}, EINVAL, "unknown option '-np', which is '--slots' here"},
    {{"launch", "-N2", "x"}, EINVAL, "unknown option '-N2', which is '--nodes' here"},
    {{"launch", "-x", "A", "x"}, EINVAL, "unknown option '-x', which is '--env' here"},
    {{"launch", "-nx", "x"}, EINVAL, "unknown option '-n' in '-nx'; 'dsrun --help' lists them"},
    {{"launch", "--num-gpu", "2", "x"}, EINVAL, "unknown option '--num-gpu'; 'dsrun --help' lists them"},
    {{"--via", "pigeon", "j.yaml"}, EINVAL, "'--via' must be 'auto', 'local', 'ssh', 'openssh', 'slurm' or 'join', not 'pigeon'"},
    {{"--color=mauve", "j.yaml"}, EINVAL, "'--color' must be 'auto', 'always' or 'never', not 'mauve'"},
    {{"--completion", "fish"}, EINVAL, "'--completion' must be 'bash' or 'zsh', not 'fish'"},
    {{"j.yaml", "--slots"}, EINVAL, "option '--slots' needs a value: '--slots N'"},
    {{"j.yaml", "-H"}, EINVAL, "option '--hostfile' needs a value: '--hostfile FILE'"},
    {{"--slots=", "j.yaml"}, EINVAL, "'--slots' has no value; it must be a number"},
    {{"--slots", "0", "j.yaml"}, EINVAL, "'--slots' must be a whole number between 1 and 1024, not '0'"},
    {{"--slots", "-1", "j.yaml"}, EINVAL, "'--slots' must be a whole number between 1 and 1024, not '-1'"},
    {{"--slots", "two", "j.yaml"}, EINVAL, "'--slots' must be a whole number between 1 and 1024, not 'two'"},
    {{"--nodes", "65537", "j.yaml"}, EINVAL, "'--nodes' must be a whole number between 1 and 65536, not '65537'"},
    {{"--nodes", "3:2", "j.yaml"}, EINVAL, "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '3:2'"},
    {{"--nodes=2:", "j.yaml"}, EINVAL, "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '2:'"},
    {{"--nodes=0:2", "j.yaml"}, EINVAL, "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '0:2'"},
    {{"--nodes", "1:2:3", "j.yaml"}, EINVAL, "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less than MIN, not '1:2:3'"},
    {{"tune", "--nodes", "2:4", "j.yaml"}, EINVAL, "'--nodes' takes one number with 'tune', which starts nothing again"},
    {{"--restarts", "-2", "j.yaml"}, EINVAL, "'--restarts' must be a whole number between 0 and 1000000, not '-2'"},
    {{"--restart-on", "rank,node-loss", "j.yaml"}, EINVAL, "'--restart-on' must be 'host-lost', 'start', 'rank', 'comm', 'hang', 'launcher', 'oom', 'disk-full' or 'input', not 'node-loss'"},
    {{"--restart-on=rank,", "j.yaml"}, EINVAL, "'--restart-on' has no value; it must be a list of names"},
    {{"--restart-backoff", "-1", "j.yaml"}, EINVAL, "'--restart-backoff' must be a number between 0 and 86400, not '-1'"},
    {{"exec", "--restart-on=oom", "true"}, EINVAL, "option '--restart-on' does not go with 'exec'"},
    {{"--grace", "soon", "j.yaml"}, EINVAL, "'--grace' must be a number between 0 and 86400, not 'soon'"},
    {{"--start-timeout", "1e9", "j.yaml"}, EINVAL, "'--start-timeout' must be a number between 0 and 86400, not '1e9'"},
    {{"--run-dir", "", "j.yaml"}, EINVAL, "'--run-dir' has no value; it must be text"},
    {{"--env", "=x", "j.yaml"}, EINVAL, "'--env' must be NAME or NAME=VALUE, not '=...'"},
    {{"--env", "A-B=x", "j.yaml"}, EINVAL, "'--env' must be NAME or NAME=VALUE, not 'A-B=...'"},
    {{"--json=yes", "j.yaml"}, EINVAL, "option '--json' takes no value"},
    {{"--solts", "2", "j.yaml"}, EINVAL, "unknown option '--solts', did you mean '--slots'?"},
    {{"--slot", "2", "j.yaml"}, EINVAL, "unknown option '--slot', did you mean '--slots'?"},
    {{"--entirely-else"}, EINVAL, "unknown option '--entirely-else'; 'dsrun --help' lists them"},
    {{"-Z", "j.yaml"}, EINVAL, "unknown option '-Z' in '-Z'; 'dsrun --help' lists them"},
    {{"-qZ", "j.yaml"}, EINVAL, "unknown option '-Z' in '-qZ'; 'dsrun --help' lists them"},
    {{"-i", "a", "-e", "b", "j.yaml"}, EINVAL, "'--include' and '--exclude' exclude each other; keep one"},
    {{"-qv", "j.yaml"}, EINVAL, "'--quiet' and '--verbose' exclude each other; keep one"},
    {{"--schedule", "j.yaml"}, EINVAL, "option '--schedule' does not go with 'run'"},
    {{"plan", "--dtype", "bf16", "j.yaml"}, EINVAL, "option '--dtype' does not go with 'plan'"},
    {{"logs", "tiny", "--json"}, EINVAL, "option '--json' does not go with 'logs'"},
    {{"attach", "tiny", "-f"}, EINVAL, "option '--follow' does not go with 'attach'"},
    {{"attach"}, EINVAL, "a word is missing; the command is 'dsrun attach JOB|RUN_DIR'"},
    {{"logs", "tiny", "--rank", "-1"}, EINVAL, "'--rank' must be a whole number between 0 and 65535, not '-1'"},
    {{"ckpt", "verify", "x", "--slots=2"}, EINVAL, "option '--slots' does not go with 'ckpt verify'"},
    {{"ckpt", "export", "a", "b", "--dtype", "fp64"}, EINVAL, "'--dtype' must be 'fp32', 'bf16' or 'fp16', not 'fp64'"},
};
/* clang-format on */

Test(opt, each_wrong_line_ends_with_its_sentence)
{
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct line line;

        parse(&line, wrongs[i].words);
        cr_expect(line.rc == -wrongs[i].code, "%s: rc %d", wrongs[i].message, line.rc);
        cr_expect_str_eq(line.err.text, wrongs[i].message);
        ds_arena_release(&line.arena);
    }
}

Test(opt, a_job_alone_is_run)
{
    struct line line;

    PARSE(&line, "j.yaml", "train.steps=3");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect_str_eq(line.cli.command, "run");
    cr_expect(line.command == &ds_commands[DS_COMMAND_RUN]);
    cr_expect(line.cli.args == 2);
    cr_expect_str_eq(line.cli.arg[0], "j.yaml");
    cr_expect_str_eq(line.cli.arg[1], "train.steps=3");
    cr_expect(line.cli.slots == 0 && line.cli.nodes == 0 && line.cli.restarts == -1);
    cr_expect(line.cli.restart_on == 0 && line.cli.restart_backoff_s == -1);
    cr_expect(line.cli.grace_s < 0 && line.cli.start_timeout_s < 0);
    cr_expect(line.cli.via == DS_VIA_AUTO && line.cli.color == DS_COLOR_AUTO);
    ds_arena_release(&line.arena);
}

Test(opt, every_form_of_a_value)
{
    struct line line;

    PARSE(&line, "-Hhosts", "--slots=2", "run", "-i", "a:0,1", "--nodes", "3", "j.yaml", "-qe",
          "x");
    cr_expect(line.rc == -EINVAL, "-e after -i");
    ds_arena_release(&line.arena);
    PARSE(&line, "-Hhosts", "--slots=2", "run", "-i", "a:0,1", "--nodes", "3", "j.yaml", "-q");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect_str_eq(line.cli.hostfile, "hosts");
    cr_expect_str_eq(line.cli.include, "a:0,1");
    cr_expect(line.cli.slots == 2 && line.cli.nodes == 3 && line.cli.quiet);
    cr_expect(line.cli.least_nodes == 3);
    cr_expect(line.cli.args == 1);
    ds_arena_release(&line.arena);
    PARSE(&line, "launch", "--nodes=2:4", "x");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect(line.cli.least_nodes == 2 && line.cli.nodes == 4);
    ds_arena_release(&line.arena);
    PARSE(&line, "exec", "--nodes", "3:3", "x");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect(line.cli.least_nodes == 3 && line.cli.nodes == 3);
    ds_arena_release(&line.arena);
    PARSE(&line, "--grace=2.5", "--start-timeout", "30", "--restarts", "0", "--env", "A=b", "--env",
          "HOME", "--color=never", "--", "-odd.yaml");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect(line.cli.grace_s == 2.5 && line.cli.start_timeout_s == 30 && line.cli.restarts == 0);
    cr_expect(line.cli.envs == 2);
    cr_expect_str_eq(line.cli.env[0], "A=b");
    cr_expect_str_eq(line.cli.env[1], "HOME");
    cr_expect(line.cli.color == DS_COLOR_NEVER);
    cr_expect_str_eq(line.cli.arg[0], "-odd.yaml");
    ds_arena_release(&line.arena);
    PARSE(&line, "--restart-on", "host-lost,comm", "--restart-backoff=0", "j.yaml");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect(line.cli.restart_on == (DS_CAUSE_HOST_LOST | DS_CAUSE_COMM));
    cr_expect(line.cli.restart_backoff_s == 0);
    ds_arena_release(&line.arena);
}

/* What follows the program is the program's, with or without "--". */
Test(opt, programs)
{
    static const char *const lines[][WORDS + 1] = {
        {"exec", "-H", "h", "--", "ls", "-l", "--", "--nodes=x"},
        {"exec", "-H", "h", "ls", "-l", "--", "--nodes=x"},
        {"-H", "h", "exec", "ls", "-l", "--", "--nodes=x"},
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct line line;

        parse(&line, lines[i]);
        cr_assert(line.rc == 0, "line %zu: %s", i, line.err.text);
        cr_expect_str_eq(line.cli.hostfile, "h");
        cr_expect_eq(line.cli.args, 4, "line %zu", i);
        cr_expect_str_eq(line.cli.arg[0], "ls");
        cr_expect_str_eq(line.cli.arg[1], "-l");
        cr_expect_str_eq(line.cli.arg[2], "--");
        cr_expect_str_eq(line.cli.arg[3], "--nodes=x");
        ds_arena_release(&line.arena);
    }
}

Test(opt, words_of_two_word_commands)
{
    struct line line;

    PARSE(&line, "ckpt", "export", "runs/a", "out", "--dtype", "bf16");
    cr_assert(line.rc == 0, "%s", line.err.text);
    cr_expect_str_eq(line.cli.command, "ckpt export");
    cr_expect(line.cli.args == 2);
    cr_expect_str_eq(line.cli.arg[0], "runs/a");
    cr_expect_str_eq(line.cli.arg[1], "out");
    cr_expect_str_eq(line.cli.dtype, "bf16");
    ds_arena_release(&line.arena);
}

Test(opt, a_word_that_looks_like_a_file_is_a_job)
{
    static const char *const jobs[] = {"./run", "runn.yaml", "dir/chek", "somethingelse"};

    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        struct line line;

        PARSE(&line, jobs[i]);
        cr_expect(line.rc == 0, "%s: %s", jobs[i], line.err.text);
        cr_expect(line.command == &ds_commands[DS_COMMAND_RUN]);
        ds_arena_release(&line.arena);
    }
}

Test(opt, help_wins_over_what_is_missing)
{
    struct line line;

    PARSE(&line, "--help");
    cr_expect(line.rc == 0 && line.cli.help && line.command == NULL);
    ds_arena_release(&line.arena);
    PARSE(&line, "plan", "-h");
    cr_expect(line.rc == 0 && line.command == &ds_commands[DS_COMMAND_PLAN]);
    ds_arena_release(&line.arena);
    PARSE(&line, "ckpt", "--help");
    cr_expect(line.rc == 0 && line.command == NULL);
    ds_arena_release(&line.arena);
    PARSE(&line, "--version");
    cr_expect(line.rc == 0 && line.cli.version);
    ds_arena_release(&line.arena);
}

Test(opt, help_names_every_option_and_fits_80_columns)
{
    struct ds_buf out;
    size_t count, column = 0;
    const struct ds_option *options = ds_options(&count);

    ds_buf_init(&out, 1 << 16);
    ds_help_print(NULL, NULL, &out);
    for (size_t c = 0; c < DS_COMMAND_COUNT; c++) {
        cr_expect(strstr(ds_buf_text(&out), ds_commands[c].name) != NULL, "%s",
                  ds_commands[c].name);
        ds_help_print(&ds_commands[c], NULL, &out);
    }
    for (size_t i = 0; i < count; i++)
        cr_expect(strstr(ds_buf_text(&out), options[i].key.path) != NULL, "%s",
                  options[i].key.path);
    for (const char *s = ds_buf_text(&out); *s != '\0'; s++) {
        column = *s == '\n' ? 0 : column + 1;
        cr_assert(column <= 80, "line ends with ...%.20s", s - 19);
        cr_expect(*s != '\n' || s[-1] != ' ', "blank at the end of a line");
    }
    ds_buf_release(&out);
}

Test(opt, help_of_a_command_has_its_options_only)
{
    struct ds_buf out;

    ds_buf_init(&out, 1 << 16);
    ds_help_print(&ds_commands[DS_COMMAND_CKPT_EXPORT], NULL, &out);
    cr_expect(strstr(ds_buf_text(&out), "usage: dsrun ckpt export [OPTIONS] CKPT OUT_DIR\n") !=
              NULL);
    cr_expect(strstr(ds_buf_text(&out), "--dtype") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "--slots") == NULL);
    ds_buf_release(&out);
}

Test(opt, help_of_a_group_has_its_commands_only)
{
    struct ds_buf group, other;

    ds_buf_init(&group, 1 << 16);
    ds_buf_init(&other, 1 << 16);
    ds_help_print(NULL, "ckpt", &group);
    cr_expect(strstr(ds_buf_text(&group), "usage: dsrun ckpt COMMAND") != NULL);
    cr_expect(strstr(ds_buf_text(&group), "ckpt diff") != NULL);
    cr_expect(strstr(ds_buf_text(&group), "bench") == NULL);
    cr_expect(strstr(ds_buf_text(&group), "--slots") == NULL);
    ds_help_print(NULL, "no-such-group", &other);
    cr_expect(strstr(ds_buf_text(&other), "--slots") != NULL, "of all");
    ds_buf_release(&group);
    ds_buf_release(&other);
}

Test(opt, completion_knows_options_and_keys)
{
    struct ds_buf out;
    size_t count;
    const struct ds_key *keys = ds_job_keys(&count);

    ds_buf_init(&out, 1 << 16);
    ds_completion_print("bash", keys, count, &out);
    cr_expect(strstr(ds_buf_text(&out), " train.steps= ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), " parallel.expert= ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), " --start-timeout ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "\n    'kill') kind=none takes=' --quiet ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "\n    'ckpt ls') kind=paths takes=' --json ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "complete -o filenames -F _dsrun dsrun\n") != NULL);
    ds_buf_reset(&out);
    ds_completion_print("zsh", keys, count, &out);
    cr_expect(strstr(ds_buf_text(&out), " train.steps= ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), " parallel.expert= ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "\n        '--slots:ranks per host; ") != NULL);
    cr_expect(strstr(ds_buf_text(&out), "; '\\''host-lost,comm'\\'''\n") != NULL, "quoted");
    cr_expect(strstr(ds_buf_text(&out), "\n    second=(\n        'ls:") != NULL);
    ds_buf_release(&out);
}

Test(opt, version_has_a_build_id)
{
    struct ds_buf out;

    ds_buf_init(&out, 1000);
    ds_version_print(&out);
    cr_expect(strncmp(ds_buf_text(&out), "dsrun " DS_VERSION "\nbuild id ", 16) == 0, "%s",
              ds_buf_text(&out));
    ds_buf_release(&out);
}

Test(opt, tables_are_well_formed)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);

    for (size_t i = 0; i < count; i++) {
        cr_expect(strncmp(options[i].key.path, "--", 2) == 0);
        cr_expect((options[i].value == NULL) == (options[i].key.type == DS_KEY_BOOL));
        for (size_t j = 0; j < i; j++) {
            cr_expect(strcmp(options[i].key.path, options[j].key.path) != 0);
            cr_expect(options[i].letter == 0 || options[i].letter != options[j].letter);
        }
    }
    cr_expect((int)DS_COMMAND_COUNT <= 32, "commands are bits of 32");
}
