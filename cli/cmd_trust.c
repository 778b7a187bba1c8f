/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_trust.c - dsrun hosts trust: show the keys of hosts that nobody knows; record them on yes.
 *
 *     host   address   type         fingerprint
 *     node2  10.0.0.2  ssh-ed25519  SHA256:...
 *     Are these the hosts' keys?  Record 1 of them (yes/no):
 *
 * Only somebody who can compare fingerprints can say yes: without a terminal nothing is recorded.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/place.h"
#include "launcher/remote/trust.h"

enum { START_TIMEOUT_S = 60, ANSWER_BYTES = 16 };

static int widest(int width, const char *text)
{
    return (int)strlen(text) > width ? (int)strlen(text) : width;
}

/* Returns how many there are. */
static unsigned print_keys(const struct ds_trust *trust)
{
    int host = 4, address = 7, type = 4;
    unsigned n = 0;

    for (const struct ds_trust_key *key = trust->keys; key != NULL; key = key->next) {
        host = widest(host, key->shown.host);
        address = widest(address, key->shown.address);
        type = widest(type, key->type);
        n++;
    }
    if (n > 0)
        (void)printf("%-*s  %-*s  %-*s  fingerprint\n", host, "host", address, "address", type,
                     "type");
    for (const struct ds_trust_key *key = trust->keys; key != NULL; key = key->next)
        (void)printf("%-*s  %-*s  %-*s  %s\n", host, key->shown.host, address, key->shown.address,
                     type, key->type, key->print);
    return n;
}

/* The hosts that recording a key does not help; returns how many there are. */
static unsigned print_others(const struct ds_trust *trust, const struct ds_cli_place *place)
{
    unsigned n = 0;

    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_trust_host *host = &trust->host[i];

        if (host->rc == -EALREADY || host->rc == -ENOKEY)
            continue;
        ds_log(DS_LOG_ERROR, "host '%s': %s", place->placement.place[i].host,
               ds_error_text(&host->err, host->rc));
        n++;
    }
    return n;
}

static bool ask(unsigned keys)
{
    char answer[ANSWER_BYTES];

    if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
        ds_log(DS_LOG_ERROR, "nothing was recorded: only a terminal can say yes");
        return false;
    }
    (void)printf("Are these the hosts' keys?  Record %s (yes/no): ",
                 keys == 1 ? "it" : "all of them");
    (void)fflush(stdout);
    if (fgets(answer, sizeof(answer), stdin) != NULL && strcmp(answer, "yes\n") == 0)
        return true;
    ds_log(DS_LOG_ERROR, "nothing was recorded");
    return false;
}

static int trust_hosts(const struct ds_cli *cli, struct ds_cli_place *place, struct ds_trust *trust,
                       struct ds_error *err)
{
    struct ds_cli once = *cli;
    unsigned keys, others;
    int rc;

    once.slots = 1;
    rc = ds_cli_place_hosts(&once, 1, place, err);
    if (rc != 0)
        return rc;
    if (place->transport != &ds_transport_ssh && place->transport != &ds_transport_openssh)
        return ds_fail(err, EDOM, "'hosts trust' is for hosts that are reached over SSH");
    rc = ds_trust_look(trust, place->placement.place, place->placement.places,
                       cli->start_timeout_s < 0 ? START_TIMEOUT_S : cli->start_timeout_s, err);
    if (rc != 0)
        return rc;
    keys = print_keys(trust);
    (void)fflush(stdout);
    others = print_others(trust, place);
    if (keys == 0 && others == 0)
        (void)printf("the keys of all %u hosts are known\n", place->placement.places);
    if (keys > 0 && !ask(keys))
        return -EKEYREJECTED;
    rc = keys > 0 ? ds_trust_record(trust, err) : 0;
    if (rc == 0 && fflush(stdout) != 0)
        return ds_fail(err, errno, "cannot write: %s", strerror(errno));
    return rc == 0 && others > 0 ? -EHOSTUNREACH : rc;
}

int ds_cmd_trust(const struct ds_cli *cli)
{
    struct ds_cli_place place = {0};
    struct ds_trust trust = {0};
    struct ds_error err = {0};
    int rc = trust_hosts(cli, &place, &trust, &err);

    if (err.code != 0)
        ds_log(DS_LOG_ERROR, "%s", err.text);
    ds_trust_release(&trust);
    ds_cli_place_release(&place);
    return ds_exit_from_errno(rc);
}
