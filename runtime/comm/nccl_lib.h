/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nccl_lib.h - what of libnccl.so.2 is used, loaded when it is needed.
 *
 * The types are those of nccl.h of NCCL 2.19, which later versions take as they are;
 * tests/fakes/abi.cc compares them with the nccl.h of the machine where there is one.
 */
#ifndef DS_RUNTIME_COMM_NCCL_LIB_H
#define DS_RUNTIME_COMM_NCCL_LIB_H

#include <stddef.h>

#include "base/error.h"

enum { DS_NCCL_OK = 0, DS_NCCL_IN_PROGRESS = 7 };
enum { DS_NCCL_SUM = 0 };
enum { DS_NCCL_BYTE = 1, DS_NCCL_F16 = 6, DS_NCCL_F32 = 7, DS_NCCL_BF16 = 9 };
#define DS_NCCL_CONFIG_MAGIC 0xcafebeefu
enum { DS_NCCL_ID_BYTES = 128, DS_NCCL_MIN_VERSION = 21900 };

typedef struct ds_nccl_comm_opaque ds_nccl_comm;

struct ds_nccl_id {
    char bytes[DS_NCCL_ID_BYTES];
};

struct ds_nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
    int traffic_class; /* since 2.26; before, padding of the same size */
};

/* Member, name behind "nccl", arguments; all give a ncclResult_t but for the text of one. */
/* clang-format off */
#define DS_NCCL_CALLS(X) \
    X(version,        GetVersion,        (int *)) \
    X(unique_id,      GetUniqueId,       (struct ds_nccl_id *)) \
    X(init,           CommInitRankConfig,(ds_nccl_comm **, int, struct ds_nccl_id, int, \
                                                struct ds_nccl_config *)) \
    X(split,          CommSplit,         (ds_nccl_comm *, int, int, ds_nccl_comm **, \
                                                struct ds_nccl_config *)) \
    X(finalize,       CommFinalize,      (ds_nccl_comm *)) \
    X(destroy,        CommDestroy,       (ds_nccl_comm *)) \
    X(abort,          CommAbort,         (ds_nccl_comm *)) \
    X(async_error,    CommGetAsyncError, (ds_nccl_comm *, int *)) \
    X(mem_alloc,      MemAlloc,          (void **, size_t)) \
    X(mem_free,       MemFree,           (void *)) \
    X(enlist,         CommRegister,      (ds_nccl_comm *, void *, size_t, void **)) \
    X(strike,         CommDeregister,    (ds_nccl_comm *, void *)) \
    X(all_reduce,     AllReduce,         (const void *, void *, size_t, int, int, \
                                                ds_nccl_comm *, void *)) \
    X(reduce_scatter, ReduceScatter,     (const void *, void *, size_t, int, int, \
                                                ds_nccl_comm *, void *)) \
    X(all_gather,     AllGather,         (const void *, void *, size_t, int, \
                                                ds_nccl_comm *, void *)) \
    X(group_start,    GroupStart,        (void)) \
    X(group_end,      GroupEnd,          (void)) \
    X(send,           Send,              (const void *, size_t, int, int, ds_nccl_comm *, void *)) \
    X(recv,           Recv,              (void *, size_t, int, int, ds_nccl_comm *, void *))
/* clang-format on */

struct ds__nccl_lib {
    void *handle;
    int number; /* 22809 is 2.28.9 */
    const char *(*error_string)(int);
#define X(member, name, args) int(*member) args;
    DS_NCCL_CALLS(X)
#undef X
};

/* -ENOTSUP: there is no such library, or it is too old; `err` says what would do. */
int ds__nccl_load(struct ds__nccl_lib *lib, struct ds_error *err) DS_NODISCARD;

#endif
