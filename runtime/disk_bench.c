/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * disk_bench.c - the contract is in disk_bench.h.
 *
 * A folder's disk as offload.optim: nvme uses it (disk.h): pieces through a few rooms, written,
 * read, and both, where each room is read again behind its write as in an update.  A rate is that
 * of all bytes of a file that was written once before, so that nothing is allocated; through the
 * page cache it is that of bytes which are on the disk when the time begins, or when it ends.
 */
#include "runtime/disk_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "runtime/disk.h"

enum { ROOMS = 4, PIECES = 8, PIECE_BYTES = 16 << 20, MAX_OUTPUT = 1 << 20 };

enum kind { WRITE, READ, BOTH, KINDS };

static const uint64_t blocks[] = {256 << 10, DS_DISK_BLOCK_BYTES, 4 << 20};
static const unsigned depths[] = {1, DS_DISK_THREADS, 16};
enum { BLOCKS = sizeof(blocks) / sizeof(blocks[0]), DEPTHS = sizeof(depths) / sizeof(depths[0]) };

struct rates {
    bool direct;
    uint64_t block_bytes;
    unsigned under_way;
    double bytes_s[KINDS];
};

struct bench {
    bool begun; /* the table */
    const char *dir;
    char *memory; /* of all rooms */
    bool as_json, direct;
    struct ds_buf out;
    struct ds_json json;
    double read, write; /* bytes/s as the offload does it */
};

/* Every piece of the file once: of BOTH each is written and the next one of its room read. */
static int pass(const struct bench *bench, struct ds_disk *disk, enum kind kind,
                struct ds_error *err)
{
    struct ds_disk_io write[ROOMS] = {{0}}, read[ROOMS] = {{0}};
    int rc = 0, last;

    for (unsigned i = 0; rc == 0 && i < PIECES; i++) {
        unsigned room = i % ROOMS;
        struct ds_disk_io io = {.bytes = PIECE_BYTES,
                                .memory = bench->memory + room * (size_t)PIECE_BYTES};

        rc = ds_disk_wait(disk, &write[room], err);
        if (rc == 0)
            rc = ds_disk_wait(disk, &read[room], err);
        if (rc == 0 && kind != READ) {
            write[room] = io;
            write[room].write = true;
            write[room].at = (uint64_t)i * PIECE_BYTES;
            ds_disk_start(disk, &write[room]);
        }
        if (rc == 0 && kind != WRITE) {
            read[room] = io;
            read[room].at = (uint64_t)((i + (kind == BOTH ? ROOMS : 0)) % PIECES) * PIECE_BYTES;
            read[room].behind = kind == BOTH ? &write[room] : NULL;
            ds_disk_start(disk, &read[room]);
        }
    }
    for (unsigned room = 0; room < ROOMS;
         room++) { /* whatever came before: they are on our stack */
        last = ds_disk_wait(disk, &write[room], rc == 0 ? err : NULL);
        rc = rc == 0 ? last : rc;
        last = ds_disk_wait(disk, &read[room], rc == 0 ? err : NULL);
        rc = rc == 0 ? last : rc;
    }
    return rc;
}

static int time_pass(const struct bench *bench, struct ds_disk *disk, enum kind kind,
                     double *bytes_s, struct ds_error *err)
{
    double bytes = (double)PIECES * PIECE_BYTES * (kind == BOTH ? 2 : 1);
    int rc = ds_disk_flush(disk, err);
    uint64_t began = ds_clock_mono_ns();

    if (rc == 0)
        rc = pass(bench, disk, kind, err);
    if (rc == 0 && kind != READ && !ds_disk_is_direct(disk))
        rc = ds_disk_flush(disk, err);
    *bytes_s = bytes * 1e9 / (double)(ds_clock_mono_ns() - began + 1);
    return rc;
}

static int measure(const struct bench *bench, bool buffered, struct rates *rates,
                   struct ds_error *err)
{
    const struct ds_disk_args args = {.dir = bench->dir,
                                      .what = "a file to measure with",
                                      .remedy = "name a folder on another disk",
                                      .bytes = (uint64_t)PIECES * PIECE_BYTES,
                                      .block_bytes = rates->block_bytes,
                                      .threads = rates->under_way,
                                      .buffered = buffered};
    struct ds_disk *disk;
    int rc = ds_disk_open(&disk, &args, err);

    if (rc != 0)
        return rc;
    rates->direct = ds_disk_is_direct(disk);
    rc = pass(bench, disk, WRITE, err);
    for (unsigned kind = WRITE; rc == 0 && kind < KINDS; kind++)
        rc = time_pass(bench, disk, (enum kind)kind, &rates->bytes_s[kind], err);
    ds_disk_close(disk);
    return rc;
}

static void report(struct bench *bench, const struct rates *rates)
{
    struct ds_json *json = &bench->json;

    if (!bench->as_json) {
        if (!bench->begun)
            (void)printf("%-8s %10s %10s %10s %10s %10s\n", "GB/s", "block", "under way", "written",
                         "read", "both");
        bench->begun = true;
        (void)printf(
            "%-8s %6llu KiB %10u %10.2f %10.2f %10.2f\n", rates->direct ? "direct" : "cached",
            (unsigned long long)(rates->block_bytes >> 10), rates->under_way,
            rates->bytes_s[WRITE] / 1e9, rates->bytes_s[READ] / 1e9, rates->bytes_s[BOTH] / 1e9);
        (void)fflush(stdout);
        return;
    }
    ds_json_object(json, NULL);
    ds_json_bool(json, "direct", rates->direct);
    ds_json_u64(json, "block_bytes", rates->block_bytes);
    ds_json_u64(json, "under_way", rates->under_way);
    ds_json_f64(json, "write_gb_s", rates->bytes_s[WRITE] / 1e9, 4);
    ds_json_f64(json, "read_gb_s", rates->bytes_s[READ] / 1e9, 4);
    ds_json_f64(json, "both_gb_s", rates->bytes_s[BOTH] / 1e9, 4);
    ds_json_end_object(json);
}

/* Direct first: what the offload does where it can. */
static int run(struct bench *bench, struct ds_error *err)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < 2 * BLOCKS * DEPTHS; i++) {
        bool buffered = i >= BLOCKS * DEPTHS;
        struct rates rates = {.block_bytes = blocks[i / DEPTHS % BLOCKS],
                              .under_way = depths[i % DEPTHS]};

        rc = measure(bench, buffered, &rates, err);
        if (rc != 0)
            break;
        report(bench, &rates);
        if (!buffered)
            bench->direct = rates.direct;
        if (!buffered && rates.block_bytes == DS_DISK_BLOCK_BYTES &&
            rates.under_way == DS_DISK_THREADS) {
            bench->read = rates.bytes_s[READ];
            bench->write = rates.bytes_s[WRITE];
        }
        if (!buffered && !rates.direct && i + 1 == BLOCKS * DEPTHS)
            break; /* the same again */
    }
    return rc;
}

static int bench_io(struct bench *bench, struct ds_error *err)
{
    int rc;

    ds_buf_init(&bench->out, MAX_OUTPUT);
    ds_json_init(&bench->json, &bench->out);
    if (bench->as_json) {
        ds_json_object(&bench->json, NULL);
        ds_json_string(&bench->json, "folder", bench->dir);
        ds_json_u64(&bench->json, "bytes", (uint64_t)PIECES * PIECE_BYTES);
        ds_json_array(&bench->json, "cases");
    }
    rc = run(bench, err);
    if (rc == 0 && bench->as_json) {
        ds_json_end_array(&bench->json);
        ds_json_bool(&bench->json, "direct", bench->direct);
        ds_json_object(&bench->json, "disk");
        ds_json_f64(&bench->json, "read", bench->read, 4);
        ds_json_f64(&bench->json, "write", bench->write, 4);
        ds_json_end_object(&bench->json);
        ds_json_end_object(&bench->json);
        (void)ds_buf_puts(&bench->out, "\n");
        rc = ds_fs_write_all(STDOUT_FILENO, bench->out.data, bench->out.len, err);
    } else if (rc == 0) {
        (void)printf("as offload.optim: nvme does it, for one rank, in a cluster file:\n"
                     "disk: {read: %.4g, write: %.4g}\n",
                     bench->read, bench->write);
        if (!bench->direct)
            (void)printf(
                "this file system has no direct I/O: all of it is through the page cache\n");
    }
    ds_buf_release(&bench->out);
    return rc;
}

int ds_disk_bench_main(int argc, char **argv)
{
    struct bench bench = {.dir = "."};
    struct ds_error err = {0};
    int rc = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            bench.as_json = true;
        else
            bench.dir = argv[i];
    }
    bench.memory = aligned_alloc(DS_DISK_ALIGN, (size_t)ROOMS * PIECE_BYTES);
    if (bench.memory == NULL)
        rc = ds_fail(&err, ENOMEM, "no memory for %d MiB to write", ROOMS * PIECE_BYTES >> 20);
    if (rc == 0) {
        memset(bench.memory, 0x5a, (size_t)ROOMS * PIECE_BYTES);
        rc = bench_io(&bench, &err);
    }
    free(bench.memory);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "bench io: %s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : ds_exit_from_errno(rc);
}
