/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * count.c - the contract is in count.h.
 */
#include "cli/count.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/place.h"
#include "launcher/fleet/fleet.h"

enum { START_TIMEOUT_S = 60, HEARTBEAT_S = 15, ANSWER_BYTES = 64 };

struct answer { /* "4 85899345920": GPUs, and what the first has free */
    char text[ANSWER_BYTES];
    size_t len;
};

static int on_output(void *user, uint32_t rank, enum ds_log_stream stream, const char *bytes,
                     size_t len, struct ds_error *err)
{
    struct answer *answer = &((struct answer *)user)[rank];
    size_t room = sizeof(answer->text) - 1 - answer->len;

    (void)err;
    if (stream != DS_LOG_STDOUT)
        return 0; /* why it has none is said by the rank that wants one */
    if (len > room)
        len = room; /* an answer of that length is none */
    memcpy(answer->text + answer->len, bytes, len);
    answer->len += len;
    return 0;
}

static int on_record(void *user, uint32_t rank, const char *json, size_t len, struct ds_error *err)
{
    (void)user;
    (void)rank;
    (void)json;
    (void)len;
    (void)err;
    return 0; /* the cores that it runs on */
}

static int on_ended(void *user, const struct ds_super_event *exit, struct ds_error *err)
{
    (void)user;
    (void)exit;
    (void)err;
    return 0;
}

static const struct ds_fleet_ops ops = {
    .output = on_output, .metric = on_record, .event = on_record, .ended = on_ended};

static int ask(struct ds_fleet *fleet, const struct ds_cli *cli, const struct ds_cli_place *place,
               const struct ds_place *host, uint32_t hosts, struct answer *answer,
               struct ds_fleet_result *result, struct ds_error *err)
{
    static const char *argv[] = {"dsrun-worker", "device", NULL};
    char libexec[DS_MAX_PATH];
    struct ds_spec spec = {.world = hosts,
                           .link = true,
                           .no_gpus = true, /* those of another job can be counted, too */
                           .cwd = "",
                           .argc = 2,
                           .argv = argv,
                           .envc = place->env.count,
                           .env = place->env.item};
    const struct ds_fleet_args args = {
        .place = host,
        .places = hosts,
        .world = hosts,
        .transport = place->transport,
        .transport_args = {.libexec = libexec,
                           .lease_fd = -1,
                           .join = &place->join,
                           .srun = place->srun,
                           .push = (enum ds_push)cli->push,
                           .worker = true},
        .spec = &spec,
        .start_timeout_s = cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s,
        .heartbeat_s = cli->heartbeat_s < 0 ? HEARTBEAT_S : cli->heartbeat_s,
        .ops = &ops,
        .user = answer};
    int rc = ds_cli_libexec(libexec, "", err);

    spec.lease_ms = (uint32_t)(args.heartbeat_s * 1000);
    return rc == 0 ? ds_fleet_run(fleet, &args, result, err) : rc;
}

static int read_answers(const struct ds_place *host, uint32_t hosts, const struct answer *answer,
                        uint32_t *gpus, struct ds_error *err)
{
    for (uint32_t i = 0; i < hosts; i++) {
        const char *text = answer[i].text;
        int end = 0;

        if (sscanf(text, "%9u %*20[0-9]%n", &gpus[i], &end) != 1 || strcmp(text + end, "\n") != 0)
            return ds_fail(err, EHOSTUNREACH, "host '%s' does not say how many GPUs it has",
                           host[i].host);
    }
    return 0;
}

int ds_cli_count(const struct ds_cli *cli, const struct ds_cli_place *place,
                 const struct ds_place *host, uint32_t hosts, uint32_t *gpus, struct ds_error *err)
{
    struct ds_fleet_result result = {0};
    struct answer *answer = calloc(hosts, sizeof(*answer));
    struct ds_fleet fleet = {0};
    sigset_t mask;
    int rc;

    if (answer == NULL)
        return ds_fail(err, ENOMEM, "no memory for the answers of %u hosts", hosts);
    (void)sigprocmask(SIG_BLOCK, NULL, &mask);
    rc = ds_fleet_init(&fleet, err);
    if (rc == 0)
        rc = ask(&fleet, cli, place, host, hosts, answer, &result, err);
    ds_fleet_release(&fleet);
    (void)sigprocmask(SIG_SETMASK, &mask, NULL);
    if (rc == 0 && result.stop_signal != 0) {
        (void)raise(result.stop_signal);
        rc = ds_fail(err, ECANCELED, "stopped while hosts were asked for their GPUs");
    }
    if (rc == 0 && result.code != 0)
        rc = ds_fail(err, EHOSTUNREACH, "cannot ask for the GPUs of host '%s': %s",
                     host[result.first.host].host, result.cause);
    if (rc == 0)
        rc = read_answers(host, hosts, answer, gpus, err);
    free(answer);
    return rc;
}
