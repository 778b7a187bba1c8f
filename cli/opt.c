/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * opt.c - the option table and the parser; the contract is in opt.h.
 *
 * Options are taken first, in one pass over argv; the words that remain then
 * say which command it is, and only then can an option be out of place.
 */
#include "cli/opt.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/causes.h"
#include "base/nearest.h"
#include "launcher/remote/transport.h"
#include "runtime/data/chat.h"
#include "runtime/generate/request.h"

const struct ds_command ds_commands[DS_COMMAND_COUNT] = {
#define X(id, name, fn, words, fewest, most, help)                                                 \
    [DS_COMMAND_##id] = {name, words, fewest, most, help},
    DS_COMMANDS(X)
#undef X
};

/* --- options --------------------------------------------------------------------------------- */

/* clang-format off */
static const struct ds_choice vias[] = {
    {"auto", DS_VIA_AUTO}, {"local", DS_VIA_LOCAL}, {"ssh", DS_VIA_SSH},
    {"openssh", DS_VIA_OPENSSH}, {"slurm", DS_VIA_SLURM},
    {"join", DS_VIA_JOIN}, {NULL, 0}};
static const struct ds_choice pushes[] = {
    {"auto", DS_PUSH_AUTO}, {"never", DS_PUSH_NEVER}, {NULL, 0}};
static const struct ds_choice colors[] = {
    {"auto", DS_COLOR_AUTO}, {"always", DS_COLOR_ALWAYS},
    {"never", DS_COLOR_NEVER}, {NULL, 0}};
static const struct ds_choice dtypes[] = {
    {"fp32", 0}, {"bf16", 0}, {"fp16", 0}, {NULL, 0}};
static const struct ds_choice causes[] = {
#define X(id, bit, name) {name, DS_CAUSE_##id},
    DS_CAUSES(X)
#undef X
    {NULL, 0}};
static const struct ds_choice text_formats[] = {
    {"auto", DS_TEXT_AUTO}, {"text", DS_TEXT_PLAIN}, {"jsonl", DS_TEXT_JSONL},
    {NULL, 0}};
static const struct ds_choice chats[] = {
#define X(id, name) {name, 0},
    DS_CHATS(X)
#undef X
    {NULL, 0}};
static const struct ds_choice devices[] = {
    {"cpu", DS_DEVICE_CPU}, {"cuda", DS_DEVICE_CUDA}, {NULL, 0}};
static const struct ds_choice shells[] = {{"bash", 0}, {"zsh", 0}, {NULL, 0}};

#define MOST_AT  9007199254740992.0 /* 2^53 */
#define BIT(id)  (1u << DS_COMMAND_##id)
#define ON_HOSTS                                                                                   \
    (BIT(RUN) | BIT(EVAL) | BIT(CHECK) | BIT(PLAN) | BIT(LAUNCH) | BIT(EXEC) | BIT(HOSTS) | BIT(TUNE))
#define CHOOSING (ON_HOSTS | BIT(HOSTS_TRUST))
#define ON_RANKS (BIT(RUN) | BIT(EVAL) | BIT(CHECK) | BIT(PLAN) | BIT(LAUNCH) | BIT(TUNE))
#define STARTING (ON_RANKS | BIT(EXEC))
#define GOING_ON (BIT(RUN) | BIT(CHECK) | BIT(PLAN) | BIT(LAUNCH))
#define PROGRAM  (BIT(LAUNCH) | BIT(EXEC))
#define JSON     (ON_HOSTS | BIT(PS) | BIT(ATTACH) | BIT(CKPT_LS) | BIT(CKPT_VERIFY) | BIT(CKPT_DIFF) | BIT(BENCH_GEMM) | BIT(BENCH_COMM) | BIT(BENCH_IO) | BIT(GENERATE))

/* Offset of a field, whose address must have this type. */
#define FIELD(type, f)                                                                             \
    (offsetof(struct ds_cli, f) +                                                                  \
     0 * sizeof(char[_Generic(&((struct ds_cli *)0)->f, type: 1)]))
#define TEXT(letter, path, value, f, commands, help) \
    {{path, DS_KEY_TEXT, 0, FIELD(const char **, f), NULL, 0, DS_MAX_PATH - 1, NULL, help, NULL}, \
     letter, value, commands}
#define WORD(path, value, f, choices, commands, help) \
    {{path, DS_KEY_WORD, 0, FIELD(const char **, f), NULL, 0, 0, choices, help, NULL}, 0, value, commands}
#define ENUM(path, value, f, choices, commands, help) \
    {{path, DS_KEY_ENUM, 0, FIELD(unsigned *, f), NULL, 0, 0, choices, help, NULL}, 0, value, commands}
#define WHOLE(path, value, type, f, min, max, commands, help) \
    {{path, DS_KEY_U64, 0, FIELD(type, f), NULL, min, max, NULL, help, NULL}, 0, value, commands}
#define SECONDS(path, f, commands, help) \
    {{path, DS_KEY_F64, 0, FIELD(double *, f), NULL, 0, 86400, NULL, help, NULL}, 0, "SECONDS", commands}
#define REAL(path, value, f, max, commands, help) \
    {{path, DS_KEY_F64, 0, FIELD(double *, f), NULL, 0, max, NULL, help, NULL}, 0, value, commands}
#define FLAG(letter, path, f, commands, help) \
    {{path, DS_KEY_BOOL, 0, FIELD(bool *, f), NULL, 0, 0, NULL, help, NULL}, letter, NULL, commands}

static const struct ds_option options[] = {
    TEXT('H', "--hostfile", "FILE", hostfile, CHOOSING, "the hosts to use"),
    TEXT('i', "--include", "SPEC", include, CHOOSING, "only these: HOST[:SLOT[,SLOT...]][@HOST...]"),
    TEXT('e', "--exclude", "SPEC", exclude, CHOOSING, "all but these"),
    WHOLE("--nodes", "N|MIN:MAX", uint64_t *, nodes, 1, DS_MAX_HOSTS, CHOOSING | BIT(CONVERT),
          "use the first N hosts; with MIN:MAX go on with fewer when hosts are lost"),
    WHOLE("--slots", "N", uint64_t *, slots, 1, DS_MAX_SLOTS, ON_RANKS | BIT(CONVERT), "ranks per host; else the hostfile says, else launch.slots"),
    ENUM("--via", "HOW", via, vias, CHOOSING, "how hosts are reached: auto, local, ssh, openssh, slurm or join"),
    TEXT(0, "--join-key", "FILE", join_key, CHOOSING | BIT(JOIN), "the key of all hosts that join, in a file for its owner alone"),
    TEXT(0, "--join-listen", "ADDRESS:PORT", join_listen, CHOOSING, "where hosts join; any address, port 7475 if not given"),
    FLAG(0, "--make-key", make_key, BIT(JOIN), "write a new key to the file of --join-key, and end"),
    TEXT(0, "--name", "NAME", name, BIT(JOIN), "what the hostfile calls this host; its host name if not given"),
    SECONDS("--wait", wait_s, BIT(JOIN), "for the launcher, at first and after each job; 60 if not given"),
    ENUM("--push", "WHEN", push, pushes, STARTING | BIT(HOSTS), "copy programs to hosts that lack them: auto or never"),
    FLAG(0, "--dry-run", dry_run, ON_HOSTS, "decide and print everything, start nothing"),
    TEXT(0, "--run-dir", "DIR", run_dir, ON_RANKS | BIT(HOSTS), "where metrics, logs and checkpoints go"),
    SECONDS("--grace", grace_s, STARTING, "from asking ranks to stop to killing them; 30 if not given"),
    SECONDS("--start-timeout", start_timeout_s, CHOOSING, "for all ranks to be ready; 60 if not given"),
    SECONDS("--heartbeat", heartbeat_s, STARTING,
            "without a word after which a host is lost; 15 if not given, 0: never"),
    WHOLE("--restarts", "N", int64_t *, restarts, 0, 1000000, ON_RANKS,
          "times to start again after a failure"),
    {{"--restart-on", DS_KEY_SET, 0, FIELD(unsigned *, restart_on), NULL, 0, 0, causes,
      "after which failures, as launch.restart_on; 'host-lost,comm'", NULL}, 0, "LIST", ON_RANKS},
    SECONDS("--restart-backoff", restart_backoff_s, ON_RANKS,
            "before the first restart, doubled for the next ones, up to 30; 1 if not given"),
    {{"--env", DS_KEY_LIST, 0, FIELD(const char ***, env), NULL, 0, 65536, NULL,
      "give ranks a variable; without a value the one it has here, or all that match a pattern "
      "like 'NCCL_*'; repeatable", NULL}, 0, "NAME[=VALUE]", STARTING},
    {{"--env-file", DS_KEY_LIST, 0, FIELD(const char ***, env_file), NULL, 0, DS_MAX_PATH - 1, NULL,
      "give ranks the variables of a file of NAME=value lines; repeatable", NULL}, 0, "FILE", STARTING},
    {{"--srun-arg", DS_KEY_LIST, 0, FIELD(const char ***, srun_arg), NULL, 0, 4096, NULL,
      "one more argument for srun, '--network=...'; repeatable", NULL}, 0, "ARG", ON_HOSTS},
    TEXT(0, "--cwd", "DIR", cwd, PROGRAM, "where the program runs"),
    FLAG(0, "--live", live, BIT(EXEC), "show every line as it comes, with its host before it"),
    FLAG('f', "--follow", follow, BIT(LOGS), "go on until the job has ended"),
    WHOLE("--rank", "N", int64_t *, rank, 0, DS_MAX_RANKS - 1, BIT(LOGS) | BIT(PLAN), "of this rank only; of plan the one that is shown, 0 if not given"),
    WHOLE("--lines", "N", int64_t *, lines, 0, 1000000000, BIT(LOGS) | BIT(ATTACH), "the last N lines of each rank or record; 20 if not given"),
    FLAG(0, "--json", json, JSON, "print JSON"),
    FLAG(0, "--schedule", schedule, BIT(PLAN), "print the instruction list too"),
    TEXT(0, "--cluster", "FILE", cluster, BIT(PLAN) | BIT(TUNE), "plan for the cluster that this file describes, and predict its step"),
    WHOLE("--trials", "N", int64_t *, trials, 0, DS_MAX_TRIALS, BIT(TUNE), "layouts to try for some steps; 3 if not given"),
    TEXT(0, "--timeline", "FILE", timeline, BIT(PLAN), "write the predicted step there as a Chrome trace"),
    WORD("--dtype", "TYPE", dtype, dtypes, BIT(CKPT_EXPORT) | BIT(GENERATE), "type of the weights: fp32 or bf16; of generate also fp16, the run's own if not given"),
    TEXT(0, "--base", "DIR", base, BIT(CKPT_EXPORT), "the folder that adapters, or what was trained, were made on, if it is not where it was"),
    FLAG(0, "--adapters", adapters, BIT(CKPT_EXPORT), "the adapters alone, as PEFT loads them; else they are added to their matrices"),
    TEXT(0, "--prompt", "TEXT", prompt, BIT(GENERATE), "what the text goes on from; else --prompt-file, else standard input"),
    TEXT(0, "--prompt-file", "FILE", prompt_file, BIT(GENERATE), "a file with the prompt, without the newline at its end"),
    TEXT(0, "--prompts", "FILE", prompts, BIT(GENERATE), "a file of JSON lines with a prompt each, at the key of --key; with --json"),
    WHOLE("--batch", "N", uint64_t *, batch, 1, DS_MAX_GENERATE_BATCH, BIT(GENERATE), "samples that are made at once; 1 if not given"),
    WHOLE("--max-tokens", "N", uint64_t *, max_tokens, 1, 1000000000, BIT(GENERATE), "tokens of a sample, at most; 128 if not given"),
    REAL("--temperature", "T", temperature, 1000, BIT(GENERATE), "logits are divided by it; 1 if not given, 0: always the likeliest token"),
    WHOLE("--top-k", "K", uint64_t *, top_k, 1, DS_MAX_VOCAB, BIT(GENERATE), "sample from the K likeliest tokens only; all if not given"),
    REAL("--top-p", "P", top_p, 1, BIT(GENERATE), "then from the fewest that together have this share; 1 if not given"),
    WHOLE("--seed", "N", uint64_t *, seed, 0, MOST_AT, BIT(GENERATE), "of the random numbers; 0 if not given"),
    TEXT(0, "--stop", "TEXT", stop, BIT(GENERATE), "end a sample before this text"),
    ENUM("--device", "DEVICE", device, devices, BIT(GENERATE), "where the model computes: cpu, or cuda, the first GPU; cpu if not given"),
    FLAG(0, "--echo", echo, BIT(GENERATE), "print the prompt before each sample"),
    TEXT(0, "--tokenizer", "FILE", tokenizer, BIT(DATA_TOKENIZE) | BIT(DATA_INSPECT) | BIT(GENERATE),
         "a tokenizer.json of Hugging Face, with a model of type BPE; generate takes the run's own if not given"),
    ENUM("--format", "FORMAT", text_format, text_formats, BIT(DATA_TOKENIZE), "what files hold: text, one document each, or jsonl, one a line; auto goes by the name"),
    TEXT(0, "--key", "NAME", text_key, BIT(DATA_TOKENIZE) | BIT(GENERATE), "where the text is in an object of jsonl; 'text' if not given, behind a prompt 'completion', of --prompts 'prompt', with --chat 'messages'"),
    TEXT(0, "--prompt-key", "NAME", prompt_key, BIT(DATA_TOKENIZE), "where the prompt is, which is read and not trained on; with --sequence"),
    WHOLE("--sequence", "N", uint64_t *, sequence, 1, DS_MAX_CONTEXT, BIT(DATA_TOKENIZE), "write samples for this train.sequence, one for each line of jsonl, cut or filled up"),
    WORD("--chat", "FORM", chat, chats, BIT(DATA_TOKENIZE) | BIT(GENERATE), "lines have messages, of which the assistant's are trained on, in this form: chatml, llama3, mistral, gemma or zephyr; with --sequence. Of generate: the prompt is what a user says, or a list of messages"),
    FLAG(0, "--pack", pack, BIT(DATA_TOKENIZE), "put as many samples into a sequence as fit, each to its end; with --sequence, for data.documents apart"),
    TEXT(0, "--eot", "TOKEN", eot, BIT(DATA_TOKENIZE) | BIT(DATA_INSPECT) | BIT(GENERATE), "what stands after each document, and ends a sample: a token, auto or none; auto is <|endoftext|>, </s> or the like"),
    WHOLE("--threads", "N", uint64_t *, threads, 1, DS_MAX_THREADS, BIT(DATA_TOKENIZE) | BIT(GENERATE), "threads that tokenize or compute; the cores of this process if not given"),
    TEXT('o', "--output", "FILE", output, BIT(CONVERT) | BIT(REPORT), "where it is written; else standard output, and report.html of the run directory"),
    FLAG(0, "--force", force, BIT(DATA_TOKENIZE) | BIT(CONVERT) | BIT(REPORT), "replace a file that is there"),
    WHOLE("--at", "N", uint64_t *, at, 0, MOST_AT, BIT(DATA_INSPECT), "the first id that is shown; 0 if not given"),
    WHOLE("--count", "N", int64_t *, count, 0, 1000000, BIT(DATA_INSPECT) | BIT(GENERATE), "how many ids are shown, 20 if not given; how many samples are made, 1 if not given"),
    FLAG('q', "--quiet", quiet, 0, "print errors only, of a run warnings, too"),
    FLAG('v', "--verbose", verbose, ON_HOSTS, "say where each key of the job was given, and which hosts are used"),
    ENUM("--color", "WHEN", color, colors, 0, "when to use color: auto, always or never"),
    WORD("--completion", "SHELL", completion, shells, 0, "print the completion script for bash or zsh"),
    FLAG('h', "--help", help, 0, "print this help, or that of a command"),
    FLAG(0, "--version", version, 0, "print version and build id"),
};
/* clang-format on */

enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

const struct ds_option *ds_options(size_t *count)
{
    *count = OPTIONS;
    return options;
}

struct parser {
    int argc, next;
    char **argv;
    struct ds_arena *arena;
    struct ds_cli *cli;
    struct ds_error *err;
    bool given[OPTIONS];
};

static int fail_unknown(const char *name, struct ds_error *err)
{
    unsigned best = DS_NEAREST_FAR;
    const char *nearest = "", *ours = ds__opt_elsewhere(name);

    if (ours != NULL)
        return ds_fail(err, EINVAL, "unknown option '%s', which is '%s' here", name, ours);
    for (size_t i = 0; i < OPTIONS; i++) {
        unsigned distance = ds_edit_distance(name, options[i].key.path);

        if (distance < best) {
            best = distance;
            nearest = options[i].key.path;
        }
    }
    if (ds_edit_close(best, name))
        return ds_fail(err, EINVAL, "unknown option '%s', did you mean '%s'?", name, nearest);
    return ds_fail(err, EINVAL, "unknown option '%s'; 'dsrun --help' lists them", name);
}

static int add_env(struct parser *p, const char *word)
{
    size_t len = strcspn(word, "=");
    bool pattern = word[len] == '\0' && strpbrk(word, "*?[") != NULL;

    if (!pattern && !ds_key_is_env_name(word, len))
        return ds_fail(p->err, EINVAL, "'--env' must be NAME or NAME=VALUE, not '%.*s%s'", (int)len,
                       word, word[len] != '\0' ? "=..." : ""); /* the value may be a secret */
    p->cli->env[p->cli->envs++] = word;                        /* there is room for all of argv */
    return 0;
}

static int add_env_file(struct parser *p, const char *word)
{
    if (word[0] == '\0')
        return ds_fail(p->err, EINVAL, "'--env-file' has no value; it must be text");
    p->cli->env_file[p->cli->env_files++] = word;
    return 0;
}

/* Whether it is an argument that srun may be given is said where hosts are placed. */
static int add_srun_arg(struct parser *p, const char *word)
{
    p->cli->srun_arg[p->cli->srun_args++] = word;
    return 0;
}

/* "a,b": the names of a set. */
static int add_causes(struct parser *p, const struct ds_key *key, const char *names)
{
    char name[DS_NEAREST_MAX + 1];
    unsigned set = 0;
    int rc = 0;

    for (const char *more = ","; rc == 0 && *more == ','; names = more + 1) {
        more = names + strcspn(names, ",");
        (void)snprintf(name, sizeof(name), "%.*s", (int)(more - names), names);
        rc = ds_key_set_text(key, p->cli, p->arena, name, p->err);
        set |= p->cli->restart_on;
    }
    p->cli->restart_on = set;
    return rc;
}

/* "4", or "2:4": both are numbers of hosts. */
static int set_nodes(struct parser *p, const struct ds_key *key, const char *word)
{
    struct ds_cli *cli = p->cli;
    const char *colon = strchr(word, ':');
    char least[DS_NEAREST_MAX + 1];
    int rc;

    if (colon == NULL) {
        rc = ds_key_set_text(key, cli, p->arena, word, p->err);
        cli->least_nodes = cli->nodes;
        return rc;
    }
    (void)snprintf(least, sizeof(least), "%.*s", (int)(colon - word), word);
    rc = ds_key_set_text(key, cli, p->arena, least, NULL);
    cli->least_nodes = cli->nodes;
    if (rc == 0)
        rc = ds_key_set_text(key, cli, p->arena, colon + 1, NULL);
    if (rc == 0 && cli->least_nodes <= cli->nodes)
        return 0;
    return ds_fail(p->err, EINVAL,
                   "'--nodes' must be N or MIN:MAX, as in '2:4', MIN 1 or more and MAX no less "
                   "than MIN, not '%s'",
                   word);
}

/* Store the value of option `i`. */
static int take(struct parser *p, size_t i, const char *value)
{
    const struct ds_key *key = &options[i].key;

    p->given[i] = true;
    if (key->type == DS_KEY_LIST && key->offset == offsetof(struct ds_cli, srun_arg))
        return add_srun_arg(p, value);
    if (key->type == DS_KEY_LIST)
        return key->offset == offsetof(struct ds_cli, env) ? add_env(p, value)
                                                           : add_env_file(p, value);
    if (key->type == DS_KEY_SET)
        return add_causes(p, key, value);
    if (key->offset == offsetof(struct ds_cli, nodes))
        return set_nodes(p, key, value);
    return ds_key_set_text(key, p->cli, p->arena, value, p->err);
}

/* Store the value of option `i`: `value`, or when that is NULL the next word. */
static int take_value(struct parser *p, size_t i, const char *value)
{
    const char *name = options[i].key.path;

    if (value == NULL && p->next < p->argc)
        value = p->argv[p->next++];
    if (value == NULL)
        return ds_fail(p->err, EINVAL, "option '%s' needs a value: '%s %s'", name, name,
                       options[i].value);
    return take(p, i, value);
}

static int take_long(struct parser *p, const char *word)
{
    size_t len = strcspn(word, "="), i = 0;
    const char *value = word[len] == '=' ? word + len + 1 : NULL;
    char name[DS_NEAREST_MAX + 1];

    (void)snprintf(name, sizeof(name), "%.*s", (int)(len < sizeof(name) ? len : sizeof(name) - 1),
                   word);
    while (i < OPTIONS && strcmp(options[i].key.path, name) != 0)
        i++;
    if (i == OPTIONS)
        return fail_unknown(name, p->err);
    if (options[i].value == NULL)
        return value == NULL ? take(p, i, "true")
                             : ds_fail(p->err, EINVAL, "option '%s' takes no value", name);
    return take_value(p, i, value);
}

static int take_letters(struct parser *p, const char *word)
{
    int rc = 0;

    for (const char *s = word + 1; rc == 0 && *s != '\0'; s++) {
        size_t i = 0;

        while (i < OPTIONS && options[i].letter != *s)
            i++;
        if (i == OPTIONS && s == word + 1 && ds__opt_elsewhere(word) != NULL)
            return fail_unknown(word, p->err);
        if (i == OPTIONS)
            return ds_fail(p->err, EINVAL,
                           "unknown option '-%c' in '%s'; 'dsrun --help' lists them", *s, word);
        if (options[i].value != NULL) /* the rest of the word, or the next one */
            return take_value(p, i, s[1] == '\0' ? NULL : s + 1);
        rc = take(p, i, "true");
    }
    return rc;
}

/* The command of one or two words that `first` and `second` (may be NULL) name. */
static const struct ds_command *find_command(const char *first, const char *second)
{
    char both[DS_NEAREST_MAX + 1];

    (void)snprintf(both, sizeof(both), "%.30s %.30s", first, second == NULL ? "" : second);
    for (int words = 2; words > 0; words--) /* the longer name wins */
        for (size_t i = 0; i < DS_COMMAND_COUNT; i++)
            if (strcmp(ds_commands[i].name, words == 2 ? both : first) == 0)
                return &ds_commands[i];
    return NULL;
}

/* Do the words so far end with the program of a command that takes one? */
static bool at_program(const struct ds_cli *cli)
{
    const struct ds_command *command = cli->args == 2 ? find_command(cli->arg[0], NULL) : NULL;

    return command != NULL && ((1u << (unsigned)(command - ds_commands)) & (PROGRAM)) != 0;
}

static int take_options(struct parser *p)
{
    struct ds_cli *cli = p->cli;
    bool words_only = false;
    int rc = 0;

    while (rc == 0 && p->next < p->argc) {
        const char *word = p->argv[p->next++];

        if (words_only || word[0] != '-' || word[1] == '\0') {
            cli->arg[cli->args++] = word;
            words_only = words_only || at_program(cli); /* what follows is the program's */
        } else if (strcmp(word, "--") == 0)
            words_only = true;
        else if (word[1] == '-')
            rc = take_long(p, word);
        else
            rc = take_letters(p, word);
    }
    return rc;
}

/* --- commands -------------------------------------------------------------------------------- */

bool ds_command_starts(const struct ds_command *command, const char *word)
{
    size_t len = strlen(word);

    return strncmp(command->name, word, len) == 0 &&
           (command->name[len] == '\0' || command->name[len] == ' ');
}

static bool is_group(const char *word)
{
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        if (ds_command_starts(&ds_commands[i], word))
            return true;
    }
    return false;
}

/* The nearest command's name, or NULL when nothing is near. */
static const char *nearest_command(const char *words)
{
    unsigned best = DS_NEAREST_FAR;
    const char *nearest = NULL;

    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        unsigned distance = ds_edit_distance(words, ds_commands[i].name);

        if (distance < best) {
            best = distance;
            nearest = ds_commands[i].name;
        }
    }
    return ds_edit_close(best, words) ? nearest : NULL;
}

/* A group such as ckpt, with a second word that none of its commands has. */
static int fail_group(const char *group, const char *second, struct ds_error *err)
{
    char names[200] = "";
    size_t used = 0;

    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        if (!ds_command_starts(&ds_commands[i], group))
            continue;
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s'%s'",
                                 used == 0 ? "" : ", ", ds_commands[i].name);
        assert(used < sizeof(names));
    }
    if (second == NULL)
        return ds_fail(err, EINVAL, "'%s' needs a second word: %s", group, names);
    return ds_fail(err, EINVAL, "unknown command '%s %s'; there are %s", group, second, names);
}

/* Which command is it?  NULL with 0: no word at all.  The words of its name are taken off. */
static int take_command(struct ds_cli *cli, const struct ds_command **command, struct ds_error *err)
{
    const char *first = cli->args > 0 ? cli->arg[0] : NULL;
    const char *second = cli->args > 1 ? cli->arg[1] : NULL, *near;

    *command = NULL;
    if (first == NULL)
        return 0;
    *command = find_command(first, second);
    if (*command != NULL) {
        size_t words = strchr((*command)->name, ' ') == NULL ? 1 : 2;

        cli->command = (*command)->name;
        cli->arg += words;
        cli->args -= words;
        return 0;
    }
    if (is_group(first))
        return fail_group(first, second, err);
    near = strpbrk(first, "./") == NULL ? nearest_command(first) : NULL;
    if (near != NULL)
        return ds_fail(err, EINVAL, "unknown command '%s', did you mean '%s'?", first, near);
    cli->implied = true;
    cli->command = ds_commands[DS_COMMAND_RUN].name;
    *command = &ds_commands[DS_COMMAND_RUN];
    return 0;
}

/* A word too many, which may be the second one of another command. */
static int fail_word(const char *word, const struct ds_command *command, struct ds_error *err)
{
    size_t len = strlen(command->name);

    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        const char *name = ds_commands[i].name;

        if (ds_command_starts(&ds_commands[i], command->name) && name[len] == ' ' &&
            ds_edit_close(ds_edit_distance(word, name + len + 1), word))
            return ds_fail(err, EINVAL, "unexpected word '%s', did you mean '%s'?", word, name);
    }
    return ds_fail(err, EINVAL, "unexpected word '%s'; the command is 'dsrun %s%s%s'", word,
                   command->name, command->words[0] == '\0' ? "" : " ", command->words);
}

static int check_words(const struct ds_cli *cli, const struct ds_command *command,
                       struct ds_error *err)
{
    if (cli->args < command->fewest)
        return ds_fail(err, EINVAL, "a word is missing; the command is 'dsrun %s %s'",
                       command->name, command->words);
    if (cli->args > command->most)
        return fail_word(cli->arg[command->most], command, err);
    if (((1u << (unsigned)(command - ds_commands)) & (PROGRAM)) != 0 && cli->arg[0][0] == '\0')
        return ds_fail(err, EINVAL, "the program's name is empty");
    if (strstr(command->words, "key=value") == NULL)
        return 0;
    for (size_t i = 1; i < cli->args; i++) {
        if (strchr(cli->arg[i], '=') != NULL)
            continue;
        if (cli->implied && strpbrk(cli->arg[0], "./") == NULL)
            return ds_fail(err, EINVAL, "unknown command '%s'; 'dsrun --help' lists them",
                           cli->arg[0]);
        return ds_fail(err, EINVAL, "unexpected word '%s'; after the job come key=value words",
                       cli->arg[i]);
    }
    return 0;
}

static int check_options(const struct parser *p, const struct ds_command *command)
{
    unsigned bit = 1u << (unsigned)(command - ds_commands);

    for (size_t i = 0; i < OPTIONS; i++) {
        if (p->given[i] && options[i].commands != 0 && !(options[i].commands & bit))
            return ds_fail(p->err, EINVAL, "option '%s' does not go with '%s'", options[i].key.path,
                           command->name);
    }
    if (p->cli->include != NULL && p->cli->exclude != NULL)
        return ds_fail(p->err, EINVAL, "'--include' and '--exclude' exclude each other; keep one");
    if (p->cli->least_nodes < p->cli->nodes && !(bit & (GOING_ON)))
        return ds_fail(p->err, EINVAL,
                       "'--nodes' takes one number with '%s', which starts nothing "
                       "again",
                       command->name);
    if (p->cli->quiet && p->cli->verbose)
        return ds_fail(p->err, EINVAL, "'--quiet' and '--verbose' exclude each other; keep one");
    return 0;
}

int ds_opt_parse(int argc, char **argv, struct ds_arena *arena, struct ds_cli *cli,
                 const struct ds_command **command, struct ds_error *err)
{
    struct parser p = {.argc = argc, .argv = argv, .arena = arena, .cli = cli, .err = err};
    size_t room = argc > 0 ? (size_t)argc : 1;
    int rc;

    *command = NULL;
    *cli = (struct ds_cli){.restarts = -1,
                           .trials = -1,
                           .grace_s = -1,
                           .start_timeout_s = -1,
                           .heartbeat_s = -1,
                           .restart_backoff_s = -1,
                           .wait_s = -1,
                           .rank = -1,
                           .lines = -1,
                           .count = -1,
                           .device = DS_DEVICE_CPU,
                           .temperature = -1,
                           .top_p = -1};
    cli->arg = ds_arena_alloc(arena, room, sizeof(cli->arg[0]));
    cli->env = ds_arena_alloc(arena, room, sizeof(cli->env[0]));
    cli->env_file = ds_arena_alloc(arena, room, sizeof(cli->env_file[0]));
    cli->srun_arg = ds_arena_alloc(arena, room, sizeof(cli->srun_arg[0]));
    if (cli->arg == NULL || cli->env == NULL || cli->env_file == NULL || cli->srun_arg == NULL)
        return ds_fail(err, ENOMEM, "out of memory");
    p.next = 1; /* after the program's name */
    rc = take_options(&p);
    *command =
        cli->args == 0 ? NULL : find_command(cli->arg[0], cli->args > 1 ? cli->arg[1] : NULL);
    if (rc != 0 || cli->version || cli->completion != NULL)
        return rc;
    if (cli->help && *command == NULL)
        return 0;
    rc = take_command(cli, command, err);
    if (rc != 0 || cli->help)
        return rc;
    if (*command == NULL)
        return ds_fail(err, EINVAL, "no job file is given; try 'dsrun JOB.yaml' or 'dsrun --help'");
    rc = check_options(&p, *command);
    return rc != 0 ? rc : check_words(cli, *command, err);
}
