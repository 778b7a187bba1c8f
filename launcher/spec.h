/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spec.h - what an agent is told to start: bytes in one SPEC frame.
 *
 * The launcher knows nothing of training: `blob` is handed to each rank as the first frame on its
 * link, unread.  Every string travels with its length; nothing is ever quoted or given to a shell.
 *
 * The agent sets for every rank: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, NODE_RANK,
 * DSRUN_CORES, and when `link` is set DSRUN_LINK_FD and DSRUN_SHM_FD, when `gather` is set those of
 * torchrun; then `env` ("NAME=VALUE", later wins) on top of the agent's own environment.
 *
 * Tests   tests/launcher/test_spec.c, tests/fuzz/fuzz_spec.c
 */
#ifndef DS_LAUNCHER_SPEC_H
#define DS_LAUNCHER_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"

/* Variables that an agent sets for each rank, in some job or other. */
/* clang-format off */
#define DS_RANK_VARS(X) \
    X("RANK") X("WORLD_SIZE") X("LOCAL_RANK") X("LOCAL_WORLD_SIZE") X("NODE_RANK") \
    X("GROUP_RANK") X("GROUP_WORLD_SIZE") X("ROLE_RANK") X("ROLE_WORLD_SIZE") \
    X("MASTER_ADDR") X("MASTER_PORT") X("DSRUN_CORES") X("DSRUN_LINK_FD") X("DSRUN_SHM_FD")
/* clang-format on */

/* Exit code by which a rank says that it gave up only because another one did. */
enum { DS_RANK_VICTIM_EXIT = 79 };

struct ds_spec {
    uint32_t world, first_rank, ranks; /* ranks on this host: first_rank .. first_rank+ranks-1 */
    uint32_t node, nodes;
    uint32_t threads;  /* cores per rank; 0: the host's allowed cores / ranks */
    uint32_t grace_ms; /* between TERM and KILL */
    uint32_t lease_ms; /* without a word from the launcher for so long, the job is over; 0: never */
    bool gather;       /* wait for GO (gather.h) and tell ranks of each other as PyTorch expects */
    bool probe;        /* start nothing: write what the host is (probe.h), argv[1] is a folder */
    bool link;         /* ranks speak frames on DSRUN_LINK_FD and share memory on DSRUN_SHM_FD */
    bool no_gpus;      /* ranks compute on the CPU: GPUs are not asked for, nor locked */
    const char *devices; /* encoding: in front of `env`, as CUDA_VISIBLE_DEVICES; NULL: none */
    const char *job;     /* who starts them, for others (gpulock.h); NULL: nobody */
    const char *cwd;     /* "" keeps the agent's, "~" is the user's home */
    size_t argc, envc;
    const char **argv, **env; /* argv[0] with a link: beside the agent, else found in PATH */
    const void *blob;
    size_t blob_bytes;
};

int ds_spec_encode(const struct ds_spec *spec, struct ds_buf *out, struct ds_error *err)
    DS_NODISCARD;

/* Strings and arrays live in `arena`; blob is borrowed from `bytes`.
 * -EPROTO malformed, -ENOMEM. */
int ds_spec_decode(const void *bytes, size_t len, struct ds_arena *arena, struct ds_spec *spec,
                   struct ds_error *err) DS_NODISCARD;

#endif
