/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_net.c - any bytes from a rank on another host that has shown its key: frames of the data plane.
 *
 * The first byte chooses the calls, the second how many numbers they work on (bit 6 of the first makes
 * all-to-alls of all-gathers); the rest is what the other rank sends.  Beyond "no crash": a call succeeds, or fails with a reason; a failed group stays so.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/comm/net.h"
#include "runtime/comm/region.h"
#include "runtime/comm/tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum ds_comm_op ops[] = {DS_COMM_ALL_REDUCE_F32, DS_COMM_BROADCAST,
                                      DS_COMM_REDUCE_SCATTER, DS_COMM_ALL_GATHER};
enum { OPS = sizeof(ops) / sizeof(ops[0]), CALLS = 3, SWAPS = 0x40 };

struct here { /* rank 0 of two hosts with a rank each */
    struct ds__region region;
    struct ds__sync sync;
    struct ds__mesh mesh;
    struct ds__net net;
    int pair[2], fd[2], wake[2];
    struct ds__mesh_peer peer[2];
    float scratch[DS_TREE_SCRATCH];
};

static const unsigned zero, ranks[] = {0, 1};
static const float given[2 * 256];

static void start(struct here *here)
{
    const struct ds__region_args place = {
        .ranks = 1, .shm_fd = -1, .arena_bytes = 4096, .windows = true};
    const struct ds__net_args args = {.mesh = &here->mesh,
                                      .sync = &here->sync,
                                      .ranks = 2,
                                      .host_of = ranks,
                                      .name = ranks,
                                      .scratch = here->scratch};

    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, here->pair) == 0);
    assert(pipe(here->wake) == 0);
    here->fd[0] = -1;
    here->fd[1] = here->pair[0];
    memcpy(here->peer[1].host, "h1", 3);
    here->mesh =
        (struct ds__mesh){.world = 2, .fd = here->fd, .peer = here->peer, .wake = here->wake[0]};
    assert(ds__region_open(&here->region, &place, NULL) == 0);
    here->sync = (struct ds__sync){.region = &here->region,
                                   .gate = ds__region_gate(&here->region, 0, 0),
                                   .desk = &zero,
                                   .name = &zero,
                                   .members = 1,
                                   .timeout_ns = UINT64_C(10000000000)};
    assert(ds__net_init(&here->net, &args, NULL) == 0);
}

static void stop(struct here *here)
{
    ds__net_release(&here->net);
    ds__region_close(&here->region);
    for (unsigned i = 0; i < 2; i++) {
        (void)close(here->pair[i]);
        (void)close(here->wake[i]);
    }
}

static int call(struct here *here, enum ds_comm_op op, float *vector, size_t bytes)
{
    const bool passes = op == DS_COMM_PASS, swaps = passes || op == DS_COMM_ALL_TO_ALL;
    const struct ds_comm_call what = {.op = op,
                                      .root = passes  ? 3
                                              : swaps ? 0
                                                      : 1,
                                      .buf = vector,
                                      .from = swaps ? given : NULL,
                                      .bytes = bytes};
    const struct ds__exchange exchange = {.call = &what,
                                          .scatter = !swaps && op != DS_COMM_ALL_GATHER,
                                          .gather = !swaps && op != DS_COMM_REDUCE_SCATTER,
                                          .pairs = swaps,
                                          .bytes = passes ? 2 * bytes : bytes,
                                          .slice = passes ? bytes : bytes / 2,
                                          .vector = &vector};
    struct ds_error err = {0};
    int rc = ds__net_exchange(&here->net, &exchange, &err);

    assert(rc == 0 || err.text[0] != '\0');
    assert(rc == 0 || rc == -EPROTO || rc == -ECONNRESET || rc == -ECANCELED);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct here here;
    float *vector;
    size_t bytes;
    int rc = 0;

    if (size < 2)
        return 0;
    bytes = 8 * (1 + (size_t)data[1]);
    vector = calloc(1, bytes);
    assert(vector != NULL);
    memset(&here, 0, sizeof(here));
    start(&here);
    (void)send(here.pair[1], data + 2, size - 2, MSG_NOSIGNAL);
    (void)shutdown(here.pair[1], SHUT_WR);
    for (unsigned i = 0; rc == 0 && i < CALLS; i++) {
        enum ds_comm_op op = ops[(data[0] >> (2 * i)) % OPS];

        if (op == DS_COMM_ALL_GATHER && (data[0] & SWAPS) != 0)
            op = i % 2 == 0 ? DS_COMM_ALL_TO_ALL : DS_COMM_PASS;
        rc = call(&here, op, vector, bytes);
    }
    if (rc != 0)
        assert(call(&here, DS_COMM_BROADCAST, vector, bytes) != 0);
    stop(&here);
    free(vector);
    return 0;
}
