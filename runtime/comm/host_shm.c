/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * host_shm.c - collectives through memory that the ranks of a host share.
 *
 * Every operation opens with one barrier at which each rank shows what it calls (its post); ranks
 * that differ all fail with EPROTO, and where all buffers lie in arenas the work goes straight
 * to them.  Otherwise they pass through the windows chunk by chunk: while one half of the windows
 * is worked on, the other is filled, so a chunk costs one barrier.  A buffer that all hold once is
 * gathered when all have come, or, of shards that lie elsewhere, when all have put theirs there.
 *
 * Sums   rank r adds slice r of all ranks by the tree of tree.h and writes the sum to everyone.
 * Tests  tests/comm/test_comm.c, test_common.c
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
#include <emmintrin.h>
#endif

#include "runtime/comm/half.h"
#include "runtime/comm/host.h"

enum { HALF_BYTES = DS_HOST_HALF_BYTES, LARGE_BYTES = 16 * 1024 * 1024 };

struct range {
    size_t at, len;
};

static struct ds__host *host_of(struct ds_comm *comm)
{
    return (struct ds__host *)comm;
}

/* Of the member of the group. */
static unsigned char *arena_of(const struct ds__host *host, unsigned member)
{
    return ds__region_arena(host->sync.region, host->desk[member]);
}

/* --- posts --------------------------------------------------------------------------------- */

struct ds__post *ds__shm_post(const struct ds__host *host, unsigned rank)
{
    return &ds__region_seat(host->sync.region, host->desk[rank], host->sync.slot)
                ->post[host->calls & 1];
}

/* Is the buffer of a call, `buf`, in so many bytes from `area`, and where? */
static bool lies_in(const struct ds_comm_call *call, const void *buf, const unsigned char *area,
                    size_t bytes, uint64_t *offset)
{
    uintptr_t at = (uintptr_t)buf - (uintptr_t)area; /* wraps to a large number below it */

    *offset = at;
    return call->bytes > 0 && at < bytes && call->bytes <= bytes - at;
}

/* Where what peers read of a call is.  Parts of two areas are in none.  An all-to-all that writes
 * what is held once counts as one of that: nobody may call it. */
static enum ds__area find_area(const struct ds__host *host, const struct ds_comm_call *call,
                               uint64_t *offset)
{
    const struct ds__region *region = host->sync.region;
    const unsigned char *common = ds__region_common(region);
    const bool swaps = ds__op_gives_away(call->op);
    const void *read = swaps ? call->from : call->buf;

    if (swaps && lies_in(call, call->buf, common, region->common_bytes, offset))
        return DS_AREA_COMMON;
    if (lies_in(call, read, arena_of(host, host->sync.me), region->arena_bytes, offset))
        return DS_AREA_ARENA;
    if (lies_in(call, read, common, region->common_bytes, offset))
        return DS_AREA_COMMON;
    *offset = 0;
    return DS_AREA_OUTSIDE;
}

/* Of the member, where it is a rank's own. */
static unsigned char *area_of(const struct ds__host *host, unsigned member, uint32_t area)
{
    return area == DS_AREA_COMMON ? ds__region_common(host->sync.region) : arena_of(host, member);
}

static size_t area_bytes(const struct ds__host *host, uint32_t area)
{
    return area == DS_AREA_COMMON ? host->sync.region->common_bytes
                                  : host->sync.region->arena_bytes;
}

static int describe_mismatch(const struct ds__host *host, const struct ds__post *mine,
                             unsigned rank, struct ds_error *err)
{
    const struct ds__post *its = ds__shm_post(host, rank);

    return ds_fail(err, EPROTO,
                   "rank %u calls %s of %" PRIu64 " bytes (root %" PRIu32
                   "), rank %u calls %s of %" PRIu64 " bytes (root %" PRIu32 ")",
                   host->name[host->sync.me], ds_comm_op_name(mine->op), mine->bytes, mine->root,
                   host->name[rank], ds_comm_op_name(its->op), its->bytes, its->root);
}

/* Everybody comes to the same answer: what is held once is so for all of them, at one place. */
static int check_common(const struct ds__host *host, const struct ds__post *mine, unsigned rank,
                        struct ds_error *err)
{
    const struct ds__post *its = ds__shm_post(host, rank);

    if (its->area != DS_AREA_COMMON && mine->area != DS_AREA_COMMON)
        return 0;
    if (its->area != mine->area || its->offset != mine->offset)
        return ds_fail(err, EPROTO, "%s of memory that is held once, and of other on rank %u",
                       ds_comm_op_name(mine->op),
                       host->name[its->area == DS_AREA_COMMON ? host->sync.me : rank]);
    if (its->from != mine->from)
        return ds_fail(err, EPROTO, "%s of memory that is held once, of shards there and elsewhere",
                       ds_comm_op_name(mine->op));
    if (mine->op != DS_COMM_ALL_GATHER || host->sync.members != host->sync.region->ranks ||
        (mine->from == 0 && host->sync.members != host->base.world))
        return ds_fail(err, EINVAL,
                       "%s by %u ranks of memory that all %u ranks of the host hold once",
                       ds_comm_op_name(mine->op), host->base.world, host->sync.region->ranks);
    return 0;
}

static int compare_posts(const struct ds__host *host, struct ds_error *err)
{
    const struct ds__post *mine = ds__shm_post(host, host->sync.me);

    for (unsigned rank = 0; rank < host->sync.members; rank++) {
        const struct ds__post *its = ds__shm_post(host, rank);
        size_t room = area_bytes(host, its->area);
        bool fits = its->area == DS_AREA_OUTSIDE ||
                    (its->offset <= room && its->bytes <= room - its->offset);
        int rc;

        if (its->op != mine->op || its->bytes != mine->bytes || its->root != mine->root)
            return describe_mismatch(host, mine, rank, err);
        if (!fits)
            return ds_fail(err, EPROTO, "rank %u shows a buffer beyond its arena",
                           host->name[rank]);
        rc = check_common(host, mine, rank, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int ds__shm_barrier(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err)
{
    int rc = ds__sync_barrier(&host->sync, call, err);

    host->base.wait_ns = host->sync.wait_ns + host->net.wait_ns;
    return rc;
}

/* Show the call, meet the others, see that all make the same.  Once the group was aborted nothing
 * is shown any more: a rank may still be at what was shown two calls before. */
int ds__shm_enter(struct ds__host *host, const struct ds_comm_call *call, struct ds_error *err)
{
    const bool elsewhere = call->op == DS_COMM_ALL_GATHER && call->from != NULL;
    struct ds__post *post;
    uint64_t offset;
    int rc = ds__sync_stopped(&host->sync, call, err);

    if (rc < 0)
        return rc;
    if (elsewhere && find_area(host, call, &offset) != DS_AREA_COMMON)
        ds__shm_put_shard(host, call); /* this rank's own; peers read it from here on */
    host->calls++;
    post = ds__shm_post(host, host->sync.me);
    post->op = call->op;
    post->root = call->root;
    post->bytes = call->bytes;
    post->area = find_area(host, call, &post->offset);
    post->from = elsewhere;
    if (call->op == DS_COMM_ALL_REDUCE_F64 && call->bytes != 0)
        memcpy(post->f64, call->buf, call->bytes);
    rc = ds__shm_barrier(host, call, err);
    return rc < 0 ? rc : compare_posts(host, err);
}

bool ds__shm_is_common(const struct ds__host *host)
{
    return ds__shm_post(host, host->sync.me)->area == DS_AREA_COMMON;
}

void ds__shm_put_shard(const struct ds__host *host, const struct ds_comm_call *call)
{
    size_t shard = call->bytes / host->base.world;

    if (shard > 0)
        memcpy((unsigned char *)call->buf + host->base.rank * shard, call->from, shard);
}

/* Where every rank's buffer lies, as far as the ranks in [first, last] go; false when one of them
 * is in no area.  All ranks come to the same answer. */
bool ds__shm_find_buffers(struct ds__host *host, unsigned first, unsigned last)
{
    for (unsigned rank = first; rank <= last; rank++) {
        const struct ds__post *post = ds__shm_post(host, rank);

        if (post->area == DS_AREA_OUTSIDE)
            return false;
        host->peer[rank] = (float *)(void *)(area_of(host, rank, post->area) + post->offset);
    }
    return true;
}

/* --- windows ------------------------------------------------------------------------------- */

unsigned char *ds__shm_half_window(const struct ds__host *host, unsigned rank, size_t chunk)
{
    return ds__region_window(host->sync.region, host->desk[rank]) + (chunk & 1) * HALF_BYTES;
}

/* Bytes [at, at + len) of chunk number `chunk`. */
static struct range chunk_range(size_t bytes, size_t chunk_bytes, size_t chunk)
{
    size_t at = chunk * chunk_bytes;

    return (struct range){at, bytes - at < chunk_bytes ? bytes - at : chunk_bytes};
}

static size_t chunk_count(size_t bytes, size_t chunk_bytes)
{
    return bytes / chunk_bytes + (bytes % chunk_bytes != 0);
}

/* The part of so many bytes that rank r adds up: whole cache lines; empty for the last ranks of a
 * short vector. */
static struct range slice_range(size_t bytes, unsigned rank, unsigned world)
{
    size_t lines = bytes / DS_REGION_LINE + (bytes % DS_REGION_LINE != 0);
    size_t slice = (lines / world + (lines % world != 0)) * DS_REGION_LINE;
    size_t at = slice * rank < bytes ? slice * rank : bytes;

    return (struct range){at, bytes - at < slice ? bytes - at : slice};
}

/* Move peer[] of all members on. */
static void advance(struct ds__host *host, size_t bytes)
{
    for (unsigned rank = 0; rank < host->sync.members; rank++)
        host->peer[rank] = (float *)(void *)((unsigned char *)host->peer[rank] + bytes);
}

/* --- all-reduce ---------------------------------------------------------------------------- */

/* Add this rank's slice of the bytes at peer[] and give the sum to everyone. */
static void reduce_slice(struct ds__host *host, enum ds_comm_op op, size_t bytes)
{
    struct range mine = slice_range(bytes, host->sync.me, host->sync.members);
    enum ds_dtype type = ds__op_type(op);

    if (mine.len == 0)
        return;
    advance(host, mine.at);
    if (type != DS_F32)
        ds__tree_sum_all_half(type, (uint16_t *const *)(void *)host->peer, host->sync.members,
                              mine.len / sizeof(uint16_t), host->scratch);
    else
        ds__tree_sum_all_f32(host->peer, host->sync.members, mine.len / sizeof(float),
                             host->scratch);
}

/* The sum of the bytes at peer[] to `out`. */
static void reduce_to(struct ds__host *host, enum ds_comm_op op, void *out, size_t bytes)
{
    enum ds_dtype type = ds__op_type(op);

    if (type != DS_F32)
        ds__tree_sum_half(type, out, (const uint16_t *const *)(const void *)host->peer,
                          host->sync.members, bytes / sizeof(uint16_t), host->scratch);
    else
        ds__tree_sum_f32(out, (const float *const *)host->peer, host->sync.members,
                         bytes / sizeof(float), host->scratch);
}

void ds__shm_find_windows(struct ds__host *host, size_t chunk)
{
    for (unsigned rank = 0; rank < host->sync.members; rank++)
        host->peer[rank] = (float *)(void *)ds__shm_half_window(host, rank, chunk);
}

static int all_reduce_staged(struct ds__host *host, const struct ds_comm_call *call,
                             struct ds_error *err)
{
    const size_t chunks = chunk_count(call->bytes, HALF_BYTES);
    unsigned char *buf = call->buf;
    struct range now, next = chunk_range(call->bytes, HALF_BYTES, 0);
    int rc = 0;

    memcpy(ds__shm_half_window(host, host->sync.me, 0), buf, next.len);
    rc = ds__shm_barrier(host, call, err);
    for (size_t k = 0; rc == 0 && k < chunks; k++) {
        ds__shm_find_windows(host, k);
        now = next;
        reduce_slice(host, call->op, now.len);
        if (k + 1 < chunks) {
            next = chunk_range(call->bytes, HALF_BYTES, k + 1);
            memcpy(ds__shm_half_window(host, host->sync.me, k + 1), buf + next.at, next.len);
        }
        rc = ds__shm_barrier(host, call, err);
        if (rc == 0)
            memcpy(buf + now.at, ds__shm_half_window(host, host->sync.me, k), now.len);
    }
    return rc;
}

int ds__shm_all_reduce(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0 || comm->world == 1 || call->bytes == 0)
        return rc;
    if (!ds__shm_find_buffers(host, 0, comm->world - 1))
        return all_reduce_staged(host, call, err);
    reduce_slice(host, call->op, call->bytes);
    return ds__shm_barrier(host, call, err);
}

/* The numbers travel in the posts; everyone adds them all up, so one barrier is enough. */
int ds__shm_all_reduce_f64(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    double *buf = call->buf;
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < call->bytes / sizeof(*buf); i++) {
        for (unsigned rank = 0; rank < comm->world; rank++)
            host->column[rank] = ds__shm_post(host, rank)->f64[i];
        buf[i] = ds__tree_sum_f64(host->column, comm->world);
    }
    return 0;
}

/* --- reduce-scatter ------------------------------------------------------------------------ */

/* Put bytes `part` of every shard of `buf` end to end into this rank's half window. */
static void stage_shards(struct ds__host *host, const unsigned char *buf, size_t shard,
                         struct range part, size_t chunk)
{
    unsigned char *window = ds__shm_half_window(host, host->sync.me, chunk);

    for (unsigned rank = 0; rank < host->sync.members; rank++)
        memcpy(window + rank * part.len, buf + rank * shard + part.at, part.len);
}

static int reduce_scatter_staged(struct ds__host *host, const struct ds_comm_call *call,
                                 struct ds_error *err)
{
    const unsigned rank = host->sync.me, world = host->sync.members;
    const size_t elem = ds__op_elem_bytes(call->op), shard = call->bytes / world;
    const size_t chunk_bytes = HALF_BYTES / elem / world * elem;
    const size_t chunks = chunk_count(shard, chunk_bytes);
    unsigned char *buf = call->buf;
    struct range now, next = chunk_range(shard, chunk_bytes, 0);
    int rc;

    stage_shards(host, buf, shard, next, 0);
    rc = ds__shm_barrier(host, call, err);
    for (size_t k = 0; rc == 0 && k < chunks; k++) {
        now = next;
        ds__shm_find_windows(host, k);
        advance(host, rank * now.len);
        reduce_to(host, call->op, buf + rank * shard + now.at, now.len);
        if (k + 1 < chunks) {
            next = chunk_range(shard, chunk_bytes, k + 1);
            stage_shards(host, buf, shard, next, k + 1);
        }
        rc = ds__shm_barrier(host, call, err);
    }
    return rc;
}

int ds__shm_reduce_scatter(struct ds_comm *comm, const struct ds_comm_call *call,
                           struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    size_t shard = call->bytes / comm->world;
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0 || comm->world == 1 || call->bytes == 0)
        return rc;
    if (!ds__shm_find_buffers(host, 0, comm->world - 1))
        return reduce_scatter_staged(host, call, err);
    advance(host, comm->rank * shard);
    reduce_to(host, call->op, host->peer[comm->rank], shard);
    return ds__shm_barrier(host, call, err);
}

/* --- all-gather ---------------------------------------------------------------------------- */

/* A copy too large for any cache: stores that go past it need not read their lines first, and four
 * places at once keep more lines on their way, for a core looks ahead in one page only. */
#ifdef __x86_64__
enum { STREAMS = 4, STEP = 2 * DS_REGION_LINE, AHEAD = 16 * DS_REGION_LINE };

static void copy_step(unsigned char *to, const unsigned char *from)
{
    __builtin_prefetch(from + AHEAD);
    __builtin_prefetch(from + AHEAD + DS_REGION_LINE);
    for (size_t i = 0; i < STEP; i += sizeof(__m128i))
        _mm_stream_si128((__m128i *)(void *)(to + i),
                         _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
}

static void copy_large(unsigned char *to, const unsigned char *from, size_t bytes)
{
    size_t head = -(uintptr_t)to % DS_REGION_LINE;
    size_t part = (bytes - head) / STREAMS / STEP * STEP, done = head + STREAMS * part;

    memcpy(to, from, head);
    for (size_t at = head; at < head + part; at += STEP)
        for (size_t i = 0; i < STREAMS; i++)
            copy_step(to + i * part + at, from + i * part + at);
    memcpy(to + done, from + done, bytes - done);
    _mm_sfence(); /* no barrier orders such stores */
}
#else
static void copy_large(unsigned char *to, const unsigned char *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#endif

void ds__shm_copy(void *to, const void *from, size_t bytes, size_t all)
{
    if (all < LARGE_BYTES || bytes < DS_REGION_LINE)
        memcpy(to, from, bytes);
    else
        copy_large(to, from, bytes);
}

/* The shards of the others, from where they lie; each rank begins with the next one's. */
static void take_shards(const struct ds__host *host, const struct ds_comm_call *call)
{
    unsigned world = host->base.world, me = host->base.rank;
    size_t shard = call->bytes / world;

    for (unsigned i = 1; i < world; i++) {
        unsigned rank = (me + i) % world;

        ds__shm_copy((unsigned char *)call->buf + rank * shard,
                     (const unsigned char *)host->peer[rank] + rank * shard, shard, call->bytes);
    }
}

/* In place all shards are there by now; from elsewhere nobody reads the room any more. */
static int all_gather_common(struct ds__host *host, const struct ds_comm_call *call,
                             struct ds_error *err)
{
    if (call->from == NULL)
        return 0;
    ds__shm_put_shard(host, call);
    return ds__shm_barrier(host, call, err);
}

static int all_gather_staged(struct ds__host *host, const struct ds_comm_call *call,
                             struct ds_error *err)
{
    const unsigned me = host->sync.me, world = host->sync.members;
    const size_t shard = call->bytes / world, chunks = chunk_count(shard, HALF_BYTES);
    unsigned char *buf = call->buf;
    struct range now, next = chunk_range(shard, HALF_BYTES, 0);
    int rc;

    memcpy(ds__shm_half_window(host, me, 0), buf + me * shard, next.len);
    rc = ds__shm_barrier(host, call, err);
    for (size_t k = 0; rc == 0 && k < chunks; k++) {
        now = next;
        for (unsigned rank = 0; rank < world; rank++)
            if (rank != me)
                memcpy(buf + rank * shard + now.at, ds__shm_half_window(host, rank, k), now.len);
        if (k + 1 < chunks) {
            next = chunk_range(shard, HALF_BYTES, k + 1);
            memcpy(ds__shm_half_window(host, me, k + 1), buf + me * shard + next.at, next.len);
        }
        rc = ds__shm_barrier(host, call, err);
    }
    return rc;
}

int ds__shm_all_gather(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0 || call->bytes == 0)
        return rc;
    if (ds__shm_is_common(host))
        return all_gather_common(host, call, err);
    if (comm->world == 1)
        return 0;
    if (!ds__shm_find_buffers(host, 0, comm->world - 1))
        return all_gather_staged(host, call, err);
    take_shards(host, call);
    return ds__shm_barrier(host, call, err);
}

/* --- broadcast ----------------------------------------------------------------------------- */

static int broadcast_staged(struct ds__host *host, const struct ds_comm_call *call,
                            struct ds_error *err)
{
    const size_t chunks = chunk_count(call->bytes, HALF_BYTES);
    const bool root = host->sync.me == call->root;
    unsigned char *buf = call->buf;
    int rc = 0;

    for (size_t k = 0; rc == 0 && k < chunks; k++) {
        struct range now = chunk_range(call->bytes, HALF_BYTES, k);

        if (root)
            memcpy(ds__shm_half_window(host, call->root, k), buf + now.at, now.len);
        rc = ds__shm_barrier(host, call, err);
        if (rc == 0 && !root)
            memcpy(buf + now.at, ds__shm_half_window(host, call->root, k), now.len);
    }
    /* The half that was read last may be filled again by the next operation. */
    return rc < 0 ? rc : ds__shm_barrier(host, call, err);
}

int ds__shm_broadcast(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    struct ds__host *host = host_of(comm);
    int rc = ds__shm_enter(host, call, err);

    if (rc < 0 || comm->world == 1 || call->bytes == 0)
        return rc;
    if (!ds__shm_find_buffers(host, call->root, call->root))
        return broadcast_staged(host, call, err);
    if (comm->rank != call->root)
        memcpy(call->buf, host->peer[call->root], call->bytes);
    return ds__shm_barrier(host, call, err);
}

int ds__shm_meet(struct ds_comm *comm, const struct ds_comm_call *call, struct ds_error *err)
{
    return ds__shm_enter(host_of(comm), call, err);
}
