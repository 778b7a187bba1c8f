/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * meet.c - the contract is in meet.h.
 */
#include "launcher/fleet/meet.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int ds_meet_init(struct ds_meet *meet, const struct ds_place *place, uint32_t places,
                 struct ds_error *err)
{
    *meet = (struct ds_meet){.place = place, .places = places};
    meet->host = calloc(places, sizeof(*meet->host));
    return meet->host != NULL ? 0 : ds_fail(err, ENOMEM, "no memory for %u hosts", places);
}

void ds_meet_release(struct ds_meet *meet)
{
    free(meet->host);
    *meet = (struct ds_meet){0};
}

int ds_meet_ready(struct ds_meet *meet, uint32_t host, const void *payload, size_t len,
                  struct ds_error *err)
{
    struct ds_meet_host *one = &meet->host[host];
    int rc;

    if (one->ready)
        return ds_fail(err, EPROTO, "its agent is ready twice");
    rc = ds_gather_read(&one->here, payload, len, err);
    if (rc != 0)
        return rc;
    if (host == 0 && one->here.port == 0)
        return ds_fail(err, EPROTO, "its agent named no port");
    one->ready = true;
    return ++meet->ready == meet->places;
}

int ds_meet_choose(const struct ds_meet *meet, unsigned char *out, uint32_t *len,
                   struct ds_error *err)
{
    const struct ds_place *first = &meet->place[0];
    const char *given =
        first->spec != NULL && first->spec->address != NULL ? first->spec->address : first->host;
    struct ds_gather point = meet->host[0].here;

    if (point.address[0] == '\0')
        (void)snprintf(point.address, sizeof(point.address), "%s", given);
    for (uint32_t i = 1; i < meet->places && ds_gather_is_loopback(point.address); i++) {
        const char *other = meet->host[i].here.address;

        if (other[0] != '\0' && !ds_gather_is_loopback(other))
            return ds_fail(err, EDOM,
                           "host '%s', of rank 0, is reached as '%s', where host '%s' cannot reach "
                           "it: name it by an address for all",
                           first->host, point.address, meet->place[i].host);
    }
    *len = (uint32_t)ds_gather_write(&point, out);
    return 0;
}
