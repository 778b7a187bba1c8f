/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * region.c - the contract is in region.h.
 */
#include "runtime/comm/region.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/comm/sync.h"

static const uint64_t MAGIC = UINT64_C(0x64736d31) << 32; /* "dsm1" */

static_assert(sizeof(struct ds__control) <= DS_REGION_PAGE, "control is one page");
static_assert(sizeof(struct ds__seat) <= DS_REGION_PAGE, "a seat is one page");
static_assert(ATOMIC_LONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "shared between processes");

static size_t align_up(size_t n)
{
    return (n + (DS_REGION_ALIGN - 1)) / DS_REGION_ALIGN * DS_REGION_ALIGN;
}

static size_t windows_at(unsigned ranks)
{
    return align_up(((size_t)ranks * DS_REGION_SLOTS + 1) * DS_REGION_PAGE);
}

static size_t window_bytes(unsigned ranks)
{
    return ranks > 1 ? DS_REGION_WINDOW_BYTES : 0;
}

size_t ds__region_overhead_bytes(unsigned ranks)
{
    return windows_at(ranks) + ranks * window_bytes(ranks);
}

size_t ds_comm_overhead_bytes(unsigned local_world, unsigned world)
{
    size_t all;

    if (local_world == 0)
        return 0;
    all = ds__region_overhead_bytes(local_world);
    if (local_world == 1 && world > 1)
        all += DS_REGION_WINDOW_BYTES; /* alone here, and yet there are peers */
    return all / local_world + (all % local_world != 0);
}

struct ds__control *ds__region_control(const struct ds__region *region)
{
    return (struct ds__control *)(void *)region->base;
}

struct ds__seat *ds__region_seat(const struct ds__region *region, unsigned rank, unsigned slot)
{
    size_t page = (size_t)rank * DS_REGION_SLOTS + slot + 1;

    return (struct ds__seat *)(void *)(region->base + page * DS_REGION_PAGE);
}

struct ds__gate *ds__region_gate(const struct ds__region *region, unsigned first, unsigned slot)
{
    return slot == 0 ? &ds__region_control(region)->gate
                     : &ds__region_seat(region, first, slot)->gate;
}

unsigned char *ds__region_window(const struct ds__region *region, unsigned rank)
{
    return region->base + region->windows_at + rank * region->window_bytes;
}

unsigned char *ds__region_arena(const struct ds__region *region, unsigned rank)
{
    return region->base + region->arenas_at + rank * region->arena_bytes;
}

unsigned char *ds__region_common(const struct ds__region *region)
{
    return region->base + region->common_at;
}

static int draw(struct ds__region *region, const struct ds__region_args *args, struct ds_error *err)
{
    size_t window = args->windows ? DS_REGION_WINDOW_BYTES : window_bytes(args->ranks);
    size_t overhead = windows_at(args->ranks) + args->ranks * window;
    size_t room = PTRDIFF_MAX - overhead, third = PTRDIFF_MAX / 3;

    if (args->common_bytes > third || args->beside_bytes > third)
        return ds_fail(err, EOVERFLOW, "%zu bytes held once and %zu beside do not fit in memory",
                       args->common_bytes, args->beside_bytes);
    room -= align_up(args->common_bytes) + align_up(args->beside_bytes);
    if (args->arena_bytes > room / args->ranks - DS_REGION_ALIGN)
        return ds_fail(err, EOVERFLOW, "%u arenas of %zu bytes do not fit in memory", args->ranks,
                       args->arena_bytes);
    *region = (struct ds__region){
        .windows_at = windows_at(args->ranks),
        .arenas_at = overhead,
        .window_bytes = window,
        .arena_bytes = align_up(args->arena_bytes),
        .common_bytes = align_up(args->common_bytes),
        .beside_bytes = align_up(args->beside_bytes),
        .ranks = args->ranks,
    };
    region->common_at = region->arenas_at + args->ranks * region->arena_bytes;
    region->bytes = region->common_at + region->common_bytes;
    return 0;
}

/* Write `mine` if nobody wrote yet; returns what stands there. */
static uint64_t agree(_Atomic uint64_t *word, uint64_t mine)
{
    uint64_t found = 0;

    return atomic_compare_exchange_strong(word, &found, mine) ? mine : found;
}

static int compare(struct ds__control *control, const struct ds__region_args *args,
                   struct ds_error *err)
{
    uint64_t group = agree(&control->group, MAGIC | args->ranks);
    uint64_t arena = agree(&control->arena_bytes, (uint64_t)args->arena_bytes + 1);
    uint64_t common = agree(&control->common_bytes, (uint64_t)args->common_bytes + 1);
    int rc = 0;

    if ((group & ~(uint64_t)UINT32_MAX) != MAGIC)
        return ds_fail(err, EPROTO, "the shared memory of rank %u holds something else",
                       args->name);
    if (group != (MAGIC | args->ranks))
        rc = ds_fail(err, EPROTO,
                     "%u ranks share this host for rank %u and %" PRIu64 " for its peers",
                     args->ranks, args->name, group & UINT32_MAX);
    else if (arena != (uint64_t)args->arena_bytes + 1)
        rc = ds_fail(err, EPROTO, "the arena has %zu bytes on rank %u and %" PRIu64 " on its peers",
                     args->arena_bytes, args->name, arena - 1);
    else if (common != (uint64_t)args->common_bytes + 1)
        rc = ds_fail(err, EPROTO, "%zu bytes are held once on rank %u and %" PRIu64 " on its peers",
                     args->common_bytes, args->name, common - 1);
    if (rc < 0)
        ds__sync_abort(control, args->name); /* the peers need not wait for us */
    return rc;
}

/* The agreement words must be readable before the size is agreed on: fallocate() grows the file
 * to one page and, unlike ftruncate(), never cuts what a faster rank has made. */
static int agree_in_file(const struct ds__region_args *args, struct ds_error *err)
{
    void *page;
    int rc;

    do
        rc = fallocate(args->shm_fd, 0, 0, DS_REGION_PAGE);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return ds_fail(err, EIO, "cannot size the shared memory: %s", strerror(errno));
    page = mmap(NULL, DS_REGION_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, args->shm_fd, 0);
    if (page == MAP_FAILED)
        return ds_fail(err, ENOMEM, "cannot map the shared memory: %s", strerror(errno));
    rc = compare(page, args, err);
    (void)munmap(page, DS_REGION_PAGE);
    return rc;
}

static int grow(const struct ds__region *region, int fd, struct ds_error *err)
{
    struct stat st;
    int rc;

    do
        rc = ftruncate(fd, (off_t)region->bytes);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 || fstat(fd, &st) < 0)
        return ds_fail(err, EIO, "cannot size the shared memory: %s", strerror(errno));
    if (st.st_size != (off_t)region->bytes)
        return ds_fail(err, EPROTO, "the shared memory has %jd bytes instead of %zu",
                       (intmax_t)st.st_size, region->bytes);
    return 0;
}

static int sit_down(struct ds__region *region, const struct ds__region_args *args,
                    struct ds_error *err)
{
    if (atomic_exchange(&ds__region_seat(region, args->rank, 0)->taken, 1) == 0)
        return 0;
    return ds_fail(err, EPROTO, "two processes are rank %u of one group", args->name);
}

/* The file, and memory of this rank's own right behind it. */
static void *map(const struct ds__region *region, int fd)
{
    const int rw = PROT_READ | PROT_WRITE, own = MAP_PRIVATE | MAP_ANONYMOUS;
    size_t all = region->bytes + region->beside_bytes;
    unsigned char *base;

    if (fd < 0)
        return mmap(NULL, all, rw, own, -1, 0);
    if (region->beside_bytes == 0)
        return mmap(NULL, all, rw, MAP_SHARED, fd, 0);
    base = mmap(NULL, all, PROT_NONE, own | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return base;
    if (mmap(base, region->bytes, rw, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED &&
        mprotect(base + region->bytes, region->beside_bytes, rw) == 0)
        return base;
    (void)munmap(base, all);
    return MAP_FAILED;
}

int ds__region_open(struct ds__region *region, const struct ds__region_args *args,
                    struct ds_error *err)
{
    int rc = draw(region, args, err);
    void *base;

    if (rc == 0 && args->shm_fd >= 0)
        rc = agree_in_file(args, err);
    if (rc == 0 && args->shm_fd >= 0)
        rc = grow(region, args->shm_fd, err);
    if (rc < 0)
        return rc;
    base = map(region, args->shm_fd);
    if (base == MAP_FAILED)
        return ds_fail(err, ENOMEM, "cannot map %zu bytes of memory: %s",
                       region->bytes + region->beside_bytes, strerror(errno));
    region->base = base;
    /* Fewer page faults where the system lends huge pages; no harm where it does not. */
    (void)madvise(region->base + region->arenas_at,
                  region->bytes + region->beside_bytes - region->arenas_at, MADV_HUGEPAGE);
    rc = sit_down(region, args, err);
    if (rc < 0)
        ds__region_close(region);
    return rc;
}

void ds__region_close(struct ds__region *region)
{
    if (region->base != NULL)
        (void)munmap(region->base, region->bytes + region->beside_bytes);
    region->base = NULL;
}
