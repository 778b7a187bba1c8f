/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fleet_host.c - the contract is in fleet_host.h.
 */
#include "launcher/fleet/fleet_host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/build.h"
#include "base/clock.h"
#include "base/log.h"

/* --- frames from agents ----------------------------------------------------------------------- */

static int on_hello(struct ds_fleet_host *host, const struct ds_frame *frame, struct ds_error *err)
{
    const struct ds_super_event event = {.kind = DS_SUPER_HOST_UP, .host = host->index};
    struct ds_hello hello;
    int rc = ds_channel_get_hello(frame, &hello, err);

    if (rc != 0)
        return rc;
    if (memcmp(hello.nonce, host->nonce, sizeof(hello.nonce)) != 0)
        return ds_fail(err, EPROTO, "its agent answered another launcher");
    host->greeted = true;
    ds__fleet_tell(host->fleet, &event);
    return 0;
}

static void acknowledge(struct ds_fleet_host *host, uint32_t rank)
{
    const struct ds_frame ack = {.type = DS_WIRE_ACK, .rank = rank};
    struct ds_fleet *fleet = host->fleet;
    struct ds_error err = {0};
    const struct ds_fleet_ops *ops = fleet->args->ops;
    int rc = ops->flush == NULL ? 0 : ops->flush(fleet->args->user, &err);

    ds__fleet_check(fleet, rc, &err);
    if (rc >= 0)
        (void)ds_channel_send(&host->channel, &ack);
}

static void on_text(struct ds_fleet_host *host, const struct ds_frame *frame)
{
    struct ds_fleet *fleet = host->fleet;
    const struct ds_fleet_ops *ops = fleet->args->ops;
    struct ds_error err = {0};
    const struct ds_super_event answer = {
        .kind = DS_SUPER_ANSWER, .host = host->index, .rank = frame->rank};
    int rc = 0;

    if (fleet->super.asked_ns != 0 && frame->type == DS_WIRE_EVENT)
        ds__fleet_tell(fleet, &answer);
    if (frame->len > 0)
        rc = frame->type == DS_WIRE_METRIC
                 ? ops->metric(fleet->args->user, frame->rank, frame->payload, frame->len, &err)
                 : ops->event(fleet->args->user, frame->rank, frame->payload, frame->len, &err);
    ds__fleet_check(fleet, rc, &err);
    if (rc >= 0 && (frame->flags & DS_WIRE_WANT_ACK) != 0)
        acknowledge(host, frame->rank);
}

static int on_exit_frame(struct ds_fleet_host *host, const struct ds_frame *frame,
                         struct ds_error *err)
{
    struct ds_super_event event = {.kind = DS_SUPER_EXIT, .host = host->index, .rank = frame->rank};
    const unsigned char *payload = frame->payload;
    struct ds_fleet *fleet = host->fleet;
    struct ds_error sink = {0};

    if (frame->len != 12 || ds_get_u32(payload) > 255 || ds_get_u32(payload + 4) > 127)
        return ds_fail(err, EPROTO, "it sent a malformed EXIT");
    event.code = (int)ds_get_u32(payload);
    event.signal = (int)ds_get_u32(payload + 4);
    event.oom = (ds_get_u32(payload + 8) & DS_WHY_OOM) != 0;
    event.held = (ds_get_u32(payload + 8) & DS_WHY_HELD) != 0;
    ds__fleet_check(fleet, fleet->args->ops->ended(fleet->args->user, &event, &sink), &sink);
    ds__fleet_tell(fleet, &event);
    return 0;
}

static void on_output(struct ds_fleet_host *host, const struct ds_frame *frame)
{
    struct ds_fleet *fleet = host->fleet;
    struct ds_error err = {0};

    ds__fleet_check(
        fleet,
        fleet->args->ops->output(fleet->args->user, frame->rank,
                                 frame->type == DS_WIRE_OUT ? DS_LOG_STDOUT : DS_LOG_STDERR,
                                 frame->payload, frame->len, &err),
        &err);
}

static int on_beat(struct ds_fleet_host *host, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_super_event event = {.kind = DS_SUPER_STEP, .host = host->index, .rank = frame->rank};
    const unsigned char *payload = frame->payload;
    struct ds_fleet *fleet = host->fleet;

    if (frame->len != DS_WIRE_BEAT_BYTES || ds_get_u64(payload) > DS_MAX_STEPS ||
        ds_get_u32(payload + 8) >= DS_PHASES)
        return ds_fail(err, EPROTO, "it sent a malformed BEAT");
    event.step = ds_get_u64(payload);
    event.phase = (enum ds_wire_phase)ds_get_u32(payload + 8);
    if ((int64_t)event.step > fleet->last_step) {
        fleet->last_step = (int64_t)event.step;
        if (fleet->args->ops->step != NULL)
            fleet->args->ops->step(fleet->args->user, event.step);
    }
    ds__fleet_tell(fleet, &event);
    if ((frame->flags & DS_WIRE_WANT_ACK) != 0)
        acknowledge(host, frame->rank);
    return 0;
}

/* Once every agent can start its ranks, let them. */
static int on_ready(struct ds_fleet_host *host, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_fleet *fleet = host->fleet;
    unsigned char payload[DS_GATHER_BYTES];
    struct ds_frame go = {.type = DS_WIRE_GO, .rank = DS_WIRE_NO_RANK, .payload = payload};
    struct ds_error own = {0};
    int rc = ds_meet_ready(&fleet->meet, host->index, frame->payload, frame->len, err);

    if (rc <= 0 || fleet->super.job != DS_JOB_LAUNCHING)
        return rc < 0 ? rc : 0;
    ds__fleet_check(fleet, ds_meet_choose(&fleet->meet, payload, &go.len, &own), &own);
    for (uint32_t i = 0; go.len > 0 && i < fleet->args->places; i++)
        (void)ds_channel_send(&fleet->host[i].channel, &go);
    return 0;
}

void ds__fleet_answer(void *user, uint32_t rank, const void *payload, size_t len)
{
    const struct ds_frame frame = {
        .type = DS_WIRE_STORE, .rank = rank, .payload = payload, .len = (uint32_t)len};
    const struct ds_fleet *fleet = user;
    struct ds_fleet_host *host =
        &fleet->host[ds_place_of(fleet->args->place, fleet->args->places, rank)];

    host->ended = ds_channel_send(&host->channel, &frame) != 0 || host->ended;
}

static int on_host_frame(struct ds_fleet_host *host, const struct ds_frame *frame,
                         struct ds_error *err)
{
    if (frame->type == DS_WIRE_HELLO)
        return on_hello(host, frame, err);
    if (frame->type == DS_WIRE_ERR) { /* the agent's own complaint: its first line */
        const char *text = frame->len > 0 ? frame->payload : "";
        const char *end = memchr(text, '\n', frame->len);

        (void)snprintf(host->reason, sizeof(host->reason), "%.*s",
                       (int)(end != NULL ? (size_t)(end - text) : frame->len), text);
        return 0;
    }
    if (frame->type == DS_WIRE_READY)
        return on_ready(host, frame, err);
    if (frame->type == DS_WIRE_BEAT)
        return 0;
    return ds_fail(err, EPROTO, "its agent sent %s without a rank", ds_wire_type_name(frame->type));
}

static int on_frame(struct ds_channel *channel, const struct ds_frame *frame, struct ds_error *err)
{
    struct ds_fleet_host *host = channel->user;
    const struct ds_super_event spawned = {
        .kind = DS_SUPER_SPAWNED, .host = host->index, .rank = frame->rank};
    const struct ds_super_event heard = {.kind = DS_SUPER_HOST_HEARD, .host = host->index};

    ds__fleet_tell(host->fleet, &heard);
    if (frame->type != DS_WIRE_HELLO && !host->greeted)
        return ds_fail(err, EPROTO, "its first frame is not HELLO");
    if (frame->rank == DS_WIRE_NO_RANK)
        return on_host_frame(host, frame, err);
    if (frame->rank < host->place->first_rank ||
        frame->rank - host->place->first_rank >= host->place->ranks)
        return ds_fail(err, EPROTO, "its agent spoke for rank %u", frame->rank);
    switch (frame->type) {
    case DS_WIRE_SPAWNED: ds__fleet_tell(host->fleet, &spawned); return 0;
    case DS_WIRE_OUT:
    case DS_WIRE_ERR: on_output(host, frame); return 0;
    case DS_WIRE_METRIC:
    case DS_WIRE_EVENT: on_text(host, frame); return 0;
    case DS_WIRE_BEAT: return on_beat(host, frame, err);
    case DS_WIRE_EXIT: return on_exit_frame(host, frame, err);
    case DS_WIRE_STORE:
        return ds_store_take(&host->fleet->store, frame->rank, frame->payload, frame->len, err);
    default: return ds_fail(err, EPROTO, "its agent sent %s", ds_wire_type_name(frame->type));
    }
}

static void on_ended(struct ds_channel *channel, int rc, const struct ds_error *err)
{
    struct ds_fleet_host *host = channel->user;

    ds__host_end(host, rc != 0 ? ds_error_text(err, rc) : "");
}

static const struct ds_channel_ops channel_ops = {.frame = on_frame, .ended = on_ended};

/* --- hosts ------------------------------------------------------------------------------------ */

/* Tell the agent of a host, whose line is up, what to start. */
static int send_spec(struct ds_fleet_host *host, struct ds_error *err)
{
    struct ds_fleet *fleet = host->fleet;
    struct ds_spec spec = *fleet->args->spec;
    struct ds_frame frame = {.type = DS_WIRE_SPEC, .rank = DS_WIRE_NO_RANK};
    struct ds_hello hello = {.version = DS_WIRE_VERSION};
    struct ds_buf bytes;
    int rc;

    ds_buf_init(&bytes, DS_MAX_FRAME_BYTES);
    spec.first_rank = host->place->first_rank;
    spec.ranks = host->place->ranks;
    spec.node = host->index;
    spec.nodes = fleet->args->places;
    spec.devices = fleet->args->devices != NULL ? fleet->args->devices[host->index] : NULL;
    (void)snprintf(hello.build_id, sizeof(hello.build_id), "%s", ds_build_id);
    memcpy(hello.nonce, host->nonce, sizeof(hello.nonce));
    rc = ds_spec_encode(&spec, &bytes, err);
    ds_channel_hold(&host->channel, true); /* a packet less */
    frame.payload = bytes.data;
    frame.len = (uint32_t)bytes.len;
    if (rc == 0)
        rc = ds_channel_send_hello(&host->channel, &hello);
    if (rc == 0)
        rc = ds_channel_send(&host->channel, &frame);
    ds_channel_hold(&host->channel, false);
    ds_buf_release(&bytes);
    return rc;
}

static void on_up(struct ds_remote *remote)
{
    struct ds_fleet_host *host = remote->user;
    const struct ds_channel_args channel = {.ops = &channel_ops,
                                            .user = host,
                                            .banner = true,
                                            .in_fd = remote->in_fd,
                                            .out_fd = remote->out_fd,
                                            .stream = remote->stream};
    struct ds_error err = {0};
    int rc;

    host->up = true;
    host->fleet->up++;
    host->fleet->up_ns = ds_clock_mono_ns();
    rc = ds_channel_open(&host->channel, &host->fleet->loop, &channel, &err);
    if (rc == 0)
        rc = send_spec(host, &err);
    if (rc != 0)
        on_ended(&host->channel, rc, &err);
}

static void on_down(struct ds_remote *remote, int rc, const struct ds_error *err)
{
    struct ds_fleet_host *host = remote->user;
    struct ds_fleet *fleet = host->fleet;

    ds__host_end(host, ds_error_text(err, rc));
    fleet->down++;
    if (fleet->refused.code == 0) {
        (void)ds_fail(&fleet->refused, -rc, "host '%s': %s", host->place->host, host->reason);
        fleet->refused_by = host->index;
    } else if (ds__fleet_refuses(fleet, -rc)) /* else ops->lost told it */
        ds_log(DS_LOG_ERROR, "host '%s': %s", host->place->host, host->reason);
}

const struct ds_remote_ops ds__host_remote_ops = {.up = on_up, .down = on_down};

/* --- to it, and its end ----------------------------------------------------------------------- */

void ds__host_init(struct ds_fleet_host *host, struct ds_fleet *fleet, uint32_t index)
{
    const struct ds_place *place = &fleet->args->place[index];

    *host = (struct ds_fleet_host){.fleet = fleet, .place = place, .index = index};
    host->remote = (struct ds_remote){.host = place->spec, .user = host, .in_fd = -1, .out_fd = -1};
}

void ds__host_signal(struct ds_fleet_host *host, uint32_t what)
{
    unsigned char payload[4];
    const struct ds_frame frame = {.type = DS_WIRE_SIGNAL,
                                   .rank = DS_WIRE_NO_RANK,
                                   .payload = payload,
                                   .len = sizeof(payload)};

    ds_put_u32(payload, what);
    (void)ds_channel_send(&host->channel, &frame);
}

/* Where bytes wait already the agent reads nothing, and a beat would only wait behind them. */
void ds__host_beat(struct ds_fleet_host *host)
{
    static const unsigned char payload[DS_WIRE_BEAT_BYTES];
    const struct ds_frame frame = {
        .type = DS_WIRE_BEAT, .rank = DS_WIRE_NO_RANK, .payload = payload, .len = sizeof(payload)};

    if (host->greeted && !host->ended && ds_channel_idle(&host->channel))
        (void)ds_channel_send(&host->channel, &frame);
}

void ds__host_end(struct ds_fleet_host *host, const char *reason)
{
    host->ended = true;
    if (host->reason[0] == '\0')
        (void)snprintf(host->reason, sizeof(host->reason), "%s", reason);
}

void ds__host_drop(struct ds_fleet_host *host)
{
    static const char *const words[] = {
        [DS_REACH_UNKNOWN] = "nothing came from it",
        [DS_REACH_NONE] = "it cannot be reached: nothing came from it and it confirms nothing",
        [DS_REACH_FROZEN] = "it is frozen: it can be reached, but nothing came from its agent"};
    const struct ds_fleet_args *args = host->fleet->args;
    enum ds_reach reach = DS_REACH_UNKNOWN;
    char reason[sizeof(host->reason)];

    if (host->ended)
        return;
    if (args->transport->reach != NULL)
        reach = args->transport->reach(host->fleet->starter, &host->remote);
    (void)snprintf(reason, sizeof(reason), "%s for %g s", words[reach], args->heartbeat_s);
    ds__host_end(host, reason);
}

void ds__host_close(struct ds_fleet_host *host)
{
    const struct ds_super_event event = {.kind = DS_SUPER_HOST_GONE, .host = host->index};
    struct ds_fleet *fleet = host->fleet;
    const struct ds_super_host *super = &fleet->hosts[host->index];
    bool force = !host->up || !host->channel.ended; /* dropped by us */

    ds_channel_release(&host->channel);
    fleet->args->transport->finish(fleet->starter, &host->remote, force);
    host->closed = true;
    if (host->reason[0] == '\0' && host->remote.signal != 0 && host->remote.code != -1)
        (void)snprintf(host->reason, sizeof(host->reason), "its agent was killed by signal %d (%s)",
                       host->remote.signal, strsignal(host->remote.signal));
    else if (host->reason[0] == '\0' && host->remote.code > 0)
        (void)snprintf(host->reason, sizeof(host->reason), "its agent ended with code %d",
                       host->remote.code);
    else if (host->reason[0] == '\0')
        (void)snprintf(host->reason, sizeof(host->reason), "its agent went away");
    if (fleet->args->ops->lost != NULL && (super->lost || super->ended < super->ranks))
        fleet->args->ops->lost(fleet->args->user, host->index, host->reason);
    ds__fleet_tell(fleet, &event);
}
