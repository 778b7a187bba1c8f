/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_hosts.c - dsrun hosts: ask every host what it is, and say first where hosts differ.
 *
 *     differs
 *       kernel   6.1.0-13      node[01-15]
 *                6.1.0-12      node16
 *     the same on all 16 hosts
 *       libc     2.36
 *     host    address   clock ...      what is each one's own
 *
 * What a host says is not trusted: it is parsed, bounded and escaped.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/json_read.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/fold.h"
#include "cli/place.h"
#include "launcher/fleet/fleet.h"

enum { START_TIMEOUT_S = 60, HEARTBEAT_S = 15, VALUE_BYTES = 128, ANSWER_BYTES = 64 * 1024 };
enum { TEXT_BYTES = 64 * 1024 * 1024, VALUE_COLUMN = 30 };

enum unit { TEXT, COUNT, BYTES };

/* What hosts of one job should share, in the order in which it is shown. */
/* clang-format off */
static const struct fact {
    const char *key, *name;
    enum unit unit;
} facts[] = {
    {"kernel",       "kernel",  TEXT},
    {"libc",         "libc",    TEXT},
    {"machine",      "machine", TEXT},
    {"cpu",          "cpu",     TEXT},
    {"cores",        "cores",   COUNT},
    {"numa_nodes",   "numa",    COUNT},
    {"memory_bytes", "memory",  BYTES},
    {"gpus",         "gpus",    COUNT},
    {"gpu",          "gpu",     TEXT},
    {"gpu_nodes",    "gpu numa", TEXT},
    {"driver",       "driver",  TEXT},
    {"nccl",         "nccl",    TEXT},
    {"nofile",       "nofile",  TEXT},
    {"memlock",      "memlock", TEXT},
    {"shm_bytes",    "/dev/shm", BYTES},
};
/* clang-format on */
enum { FACTS = sizeof(facts) / sizeof(facts[0]) };

struct answer { /* of one host */
    struct ds_buf text;
    json_t *object;          /* NULL: it did not answer */
    double came_s, offset_s; /* when its last bytes came; its clock less ours then */
    char lost[256];          /* why not; "" */
};

struct hosts {
    const struct ds_cli *cli;
    struct ds_cli_place place;
    struct ds_fleet fleet;
    struct answer *answer;
    const char **name;
    struct ds_fold fold[FACTS];
    char run_dir[DS_MAX_PATH], libexec[DS_MAX_PATH];
};

/* --- answers ---------------------------------------------------------------------------------- */

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct hosts *hosts = user;

    (void)err;
    if (stream == DS_LOG_STDOUT) {
        (void)ds_buf_put(&hosts->answer[rank].text, bytes, len); /* too long: not parsed */
        hosts->answer[rank].came_s = ds_clock_wall_s();
    }
    return 0;
}

static int on_ended(void *user, const struct ds_super_event *exit, struct ds_error *err)
{
    struct hosts *hosts = user;
    struct answer *answer = &hosts->answer[exit->rank];
    struct ds_error own = {0};

    (void)err;
    if (!answer->text.failed)
        answer->object = ds_json_parse(ds_buf_text(&answer->text), answer->text.len, &own);
    if (!json_is_object(answer->object)) {
        json_decref(answer->object);
        answer->object = NULL;
        (void)snprintf(answer->lost, sizeof(answer->lost), "its agent sent a malformed answer");
        return 0;
    }
    answer->offset_s = json_number_value(json_object_get(answer->object, "time")) - answer->came_s;
    return 0;
}

static void on_lost(void *user, uint32_t host, const char *reason)
{
    struct hosts *hosts = user;

    (void)snprintf(hosts->answer[host].lost, sizeof(hosts->answer[host].lost), "%s", reason);
}

static int on_text(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    (void)user;
    (void)rank;
    (void)json;
    (void)len;
    return ds_fail(err, EPROTO, "an agent sent a record instead of an answer");
}

static const struct ds_fleet_ops ops = {
    .output = on_output, .metric = on_text, .event = on_text, .ended = on_ended, .lost = on_lost};

/* --- what is shown ---------------------------------------------------------------------------- */

static double gib(double bytes)
{
    return bytes / (1024.0 * 1024.0 * 1024.0);
}

/* The value as text, into out[VALUE_BYTES]; "-" where the host did not say. */
static void format(const json_t *object, const struct fact *fact, char *out)
{
    const json_t *value = json_object_get(object, fact->key);

    (void)snprintf(out, VALUE_BYTES, "-");
    if (fact->unit == TEXT && json_is_string(value))
        (void)ds_escape_control(out, VALUE_BYTES, json_string_value(value),
                                json_string_length(value));
    else if (fact->unit == COUNT && json_is_integer(value))
        (void)snprintf(out, VALUE_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (fact->unit == BYTES && json_is_integer(value))
        (void)snprintf(out, VALUE_BYTES, "%.1f GiB", gib((double)json_integer_value(value)));
}

static int fold_answers(struct hosts *hosts, struct ds_error *err)
{
    uint32_t count = hosts->place.placement.places;

    for (size_t f = 0; f < FACTS; f++) {
        int rc = ds_fold_init(&hosts->fold[f], count, err);

        for (uint32_t i = 0; rc == 0 && i < count; i++) {
            char value[VALUE_BYTES];

            if (hosts->answer[i].object == NULL)
                continue;
            format(hosts->answer[i].object, &facts[f], value);
            rc = ds_fold_put(&hosts->fold[f], i, value, strlen(value));
            ds_fold_close(&hosts->fold[f], i);
        }
        if (rc != 0)
            return ds_fail(err, -rc, "no memory for the answers of %u hosts", count);
        ds_fold_seal(&hosts->fold[f]);
    }
    return 0;
}

/* Hosts that have the value of `host`. */
static uint32_t count_like(const struct ds_fold *fold, uint32_t host)
{
    uint32_t n = 0;

    for (uint32_t i = host; i != DS_FOLD_END; i = ds_fold_after(fold, i))
        n++;
    return n;
}

static unsigned count_values(const struct ds_fold *fold)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < fold->hosts; i++)
        n += ds_fold_leads(fold, i);
    return n;
}

/* The host that leads the most common value below `limit` hosts; of equal ones the first after
 * `last`.  DS_FOLD_END: no more. */
static uint32_t next_common(const struct ds_fold *fold, uint32_t last, uint32_t limit)
{
    uint32_t best = DS_FOLD_END, most = 0;

    for (uint32_t i = 0; i < fold->hosts; i++) {
        uint32_t n = ds_fold_leads(fold, i) ? count_like(fold, i) : 0;

        if (n == limit && last != DS_FOLD_END && i > last)
            return i;
        if (n > most && n < limit) {
            most = n;
            best = i;
        }
    }
    return best;
}

/* A fact with all its values, the most common one first. */
static void print_different(const struct hosts *hosts, size_t f, struct ds_buf *out)
{
    const struct ds_fold *fold = &hosts->fold[f];
    uint32_t limit = UINT32_MAX, host = DS_FOLD_END;
    const char *name = facts[f].name;

    while ((host = next_common(fold, host, limit)) != DS_FOLD_END) {
        limit = count_like(fold, host);
        (void)ds_buf_printf(out, "  %-9s %-*s ", name, VALUE_COLUMN,
                            ds_buf_text(ds_fold_text(fold, host)));
        ds_fold_list(fold, host, hosts->name, out);
        (void)ds_buf_puts(out, "\n");
        name = "";
    }
}

static void print_facts(const struct hosts *hosts, uint32_t answered, struct ds_buf *out)
{
    const char *head = "differs\n";

    for (size_t f = 0; f < FACTS; f++) {
        if (count_values(&hosts->fold[f]) < 2)
            continue;
        (void)ds_buf_puts(out, head);
        print_different(hosts, f, out);
        head = "";
    }
    (void)ds_buf_printf(out, "the same on %s%u host%s\n", answered > 1 ? "all " : "", answered,
                        answered == 1 ? "" : "s");
    for (size_t f = 0; f < FACTS; f++) {
        const struct ds_fold *fold = &hosts->fold[f];

        for (uint32_t i = 0; count_values(fold) == 1 && i < fold->hosts; i++)
            if (ds_fold_leads(fold, i))
                (void)ds_buf_printf(out, "  %-9s %s\n", facts[f].name,
                                    ds_buf_text(ds_fold_text(fold, i)));
    }
}

static void print_bytes(const json_t *object, const char *key, struct ds_buf *out)
{
    const json_t *value = json_object_get(object, key);

    if (json_is_integer(value))
        (void)ds_buf_printf(out, " %9.1f GiB", gib((double)json_integer_value(value)));
    else
        (void)ds_buf_printf(out, " %13s", "-");
}

/* "7 of 8" GPUs that nobody uses. */
static void print_free_gpus(const json_t *object, struct ds_buf *out)
{
    const json_t *unused = json_object_get(object, "gpus_free");
    char text[48] = "-";

    if (json_is_integer(unused))
        (void)snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT " of %zu",
                       json_integer_value(unused),
                       json_array_size(json_object_get(object, "gpu_processes")));
    (void)ds_buf_printf(out, " %9s", text);
}

/* What is each host's own. */
static void print_row(const struct hosts *hosts, uint32_t index, int width, struct ds_buf *out)
{
    static const struct fact address = {"address", "", TEXT}, interface = {"interface", "", TEXT};
    const struct answer *answer = &hosts->answer[index];
    char where[VALUE_BYTES], card[VALUE_BYTES];

    format(answer->object, &address, where);
    format(answer->object, &interface, card);
    (void)ds_buf_printf(out, "%-*s %-15s %-10s %+9.3f s %6.2f", width, hosts->name[index], where,
                        card, answer->offset_s,
                        json_number_value(json_object_get(answer->object, "load")));
    print_free_gpus(answer->object, out);
    print_bytes(answer->object, "free_bytes", out);
    print_bytes(answer->object, "tmp_free_bytes", out);
    if (hosts->cli->run_dir != NULL)
        print_bytes(answer->object, "dir_free_bytes", out);
    (void)ds_buf_puts(out, "\n");
}

static void print_table(const struct hosts *hosts, struct ds_buf *out)
{
    uint32_t count = hosts->place.placement.places;
    int width = 4;

    for (uint32_t i = 0; i < count; i++)
        if ((int)strlen(hosts->name[i]) > width)
            width = (int)strlen(hosts->name[i]);
    (void)ds_buf_printf(out, "%-*s %-15s %-10s %11s %6s %9s %13s %13s%s\n", width, "host",
                        "address", "interface", "clock", "load", "gpus free", "memory free",
                        "/tmp free", hosts->cli->run_dir != NULL ? "  run dir free" : "");
    for (uint32_t i = 0; i < count; i++)
        if (hosts->answer[i].object != NULL)
            print_row(hosts, i, width, out);
}

/* What the host said, after its name; or why it did not. */
static void print_json(const struct hosts *hosts, uint32_t index, struct ds_buf *out)
{
    const struct answer *answer = &hosts->answer[index];
    json_t *object = json_object();
    char *text = NULL;

    if (object != NULL) {
        (void)json_object_set_new(object, "host", json_string(hosts->name[index]));
        if (answer->object != NULL) {
            (void)json_object_set_new(object, "clock_offset_s", json_real(answer->offset_s));
            (void)json_object_update(object, answer->object);
        } else {
            (void)json_object_set_new(object, "error", json_string(answer->lost));
        }
        text = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    }
    (void)ds_buf_printf(out, "%s\n", text != NULL ? text : "{}");
    free(text);
    json_decref(object);
}

static int show(struct hosts *hosts, struct ds_error *err)
{
    uint32_t count = hosts->place.placement.places, answered = 0;
    struct ds_buf text;
    int rc = fold_answers(hosts, err);

    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < count; i++)
        answered += hosts->answer[i].object != NULL;
    ds_buf_init(&text, TEXT_BYTES);
    for (uint32_t i = 0; hosts->cli->json && i < count; i++)
        print_json(hosts, i, &text);
    if (!hosts->cli->json && answered > 0) {
        print_facts(hosts, answered, &text);
        print_table(hosts, &text);
    }
    rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    for (uint32_t i = 0; rc == 0 && !hosts->cli->json && i < count; i++)
        if (hosts->answer[i].object == NULL)
            ds_log(DS_LOG_ERROR, "host '%s': %s", hosts->name[i], hosts->answer[i].lost);
    return rc == 0 && answered < count ? -EHOSTUNREACH : rc;
}

/* --- the command ------------------------------------------------------------------------------ */

static int init(struct hosts *hosts, struct ds_error *err)
{
    uint32_t count = hosts->place.placement.places;

    hosts->answer = calloc(count, sizeof(*hosts->answer));
    hosts->name = calloc(count, sizeof(*hosts->name));
    if (hosts->answer == NULL || hosts->name == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u hosts", count);
    for (uint32_t i = 0; i < count; i++) {
        hosts->name[i] = hosts->place.placement.place[i].host;
        ds_buf_init(&hosts->answer[i].text, ANSWER_BYTES);
    }
    return 0;
}

static int ask(struct hosts *hosts, struct ds_fleet_result *result, struct ds_error *err)
{
    const char *argv[] = {"probe", hosts->run_dir, NULL};
    const struct ds_cli *cli = hosts->cli;
    const struct ds_placement *placement = &hosts->place.placement;
    const struct ds_spec spec = {.world = placement->world,
                                 .probe = true,
                                 .cwd = "",
                                 .argc = cli->run_dir != NULL ? 2 : 1,
                                 .argv = argv};
    const struct ds_fleet_args args = {
        .place = placement->place,
        .places = placement->places,
        .world = placement->world,
        .transport = hosts->place.transport,
        .transport_args = {.libexec = hosts->libexec,
                           .lease_fd = -1,
                           .join = &hosts->place.join,
                           .srun = hosts->place.srun,
                           .push = (enum ds_push)cli->push},
        .spec = &spec,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = HEARTBEAT_S,
        .apart = true,
        .ops = &ops,
        .user = hosts};

    return ds_fleet_run(&hosts->fleet, &args, result, err);
}

static int prepare(struct hosts *hosts, struct ds_error *err)
{
    struct ds_cli once = *hosts->cli;
    char here[DS_MAX_PATH];
    int rc;

    once.slots = 1;
    rc = ds_cli_place_hosts(&once, 1, &hosts->place, err);
    if (rc == 0)
        rc = ds_cli_libexec(hosts->libexec, "", err);
    if (rc != 0 || hosts->cli->run_dir == NULL)
        return rc;
    if (getcwd(here, sizeof(here)) == NULL)
        return ds_fail(err, errno, "the working directory: %s", strerror(errno));
    return ds_path_join(hosts->run_dir, here, hosts->cli->run_dir, err);
}

static int dry_run(const struct hosts *hosts, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, TEXT_BYTES);
    rc = ds_cli_place_list(&hosts->place, hosts->cli->json, &text, err);
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    return rc;
}

static int hosts_all(struct hosts *hosts, struct ds_error *err)
{
    struct ds_fleet_result result = {0};
    int rc = prepare(hosts, err);

    if (rc == 0 && hosts->cli->dry_run)
        return ds_exit_from_errno(dry_run(hosts, err));
    if (rc == 0)
        rc = ds_fleet_init(&hosts->fleet, err);
    if (rc == 0)
        rc = init(hosts, err);
    if (rc == 0)
        rc = ask(hosts, &result, err);
    if (rc == 0 && result.stop_signal != 0)
        return 128 + result.stop_signal;
    if (rc == 0)
        rc = show(hosts, err);
    return ds_exit_from_errno(rc);
}

int ds_cmd_hosts(const struct ds_cli *cli)
{
    struct hosts hosts = {.cli = cli};
    struct ds_error err = {0};
    int code = hosts_all(&hosts, &err);

    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    for (uint32_t i = 0; hosts.answer != NULL && i < hosts.place.placement.places; i++) {
        ds_buf_release(&hosts.answer[i].text);
        json_decref(hosts.answer[i].object);
    }
    for (size_t f = 0; f < FACTS; f++)
        ds_fold_release(&hosts.fold[f]);
    free(hosts.answer);
    free(hosts.name);
    ds_fleet_release(&hosts.fleet);
    ds_cli_place_release(&hosts.place);
    return code;
}
