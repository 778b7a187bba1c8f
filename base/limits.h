/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * limits.h - every bound of the project in one place.
 *
 * A bound that a user can meet is part of the message that reports it.
 */
#ifndef DS_BASE_LIMITS_H
#define DS_BASE_LIMITS_H

/* clang-format off */
enum {
    DS_MAX_ERROR_TEXT    = 1024,         /* bytes of one error message, with its NUL */
    DS_MAX_PATH          = 4096,         /* bytes of a path, with its NUL */
    DS_MAX_NAME          = 64,           /* bytes of a job name, without NUL */

    DS_MAX_YAML_BYTES    = 256 * 1024,   /* a job file or hostfile */
    DS_MAX_YAML_DEPTH    = 32,
    DS_MAX_YAML_NODES    = 10000,
    DS_MAX_OVERRIDES     = 256,          /* key=value on one command line */
    DS_MAX_NUMBERS       = 128,          /* of a list that is one value */
    DS_MAX_TRIALS        = 16,           /* layouts that dsrun tune tries */
    DS_MAX_TRIAL_TEXT    = 256,          /* bytes of the overrides of one, with its NUL */
    DS_MAX_TRIAL_WORDS   = 12,

    DS_MAX_FRAME_BYTES   = 1024 * 1024,  /* payload of one wire frame */
    DS_MAX_BANNER_BYTES  = 64 * 1024,    /* login noise before HELLO */
    DS_MAX_SPEC_STRINGS  = 4096,         /* argv plus environment of a rank */
    DS_MAX_STORE_KEY     = 64,           /* bytes of a rendezvous key */
    DS_MAX_STORE_VALUE   = 1024,
    DS_MAX_STORE_PUTS    = 4,            /* keys that one rank puts */

    DS_MAX_HOSTS         = 65536,
    DS_MAX_SLOTS         = 1024,         /* ranks on one host */
    DS_MAX_RANKS         = 65536,
    DS_MAX_HOST_NAME     = 255,
    DS_MAX_CPUS          = 65536,        /* of one host, as a batch system says */
    DS_MAX_NUMA_NODES    = 64,           /* of one host, with cores; those beyond are not known */
    DS_MAX_GPUS          = 64,           /* of one host, for nearness and locks */

    DS_MAX_KNOWN_KEYS    = 32,           /* entries of one host in the known_hosts files */
    DS_MAX_KEY_BYTES     = 4096,         /* one public key */
    DS_MAX_SSH_FILE      = 4 * 1024 * 1024, /* a known_hosts file; an ssh config, an identity */
    DS_MAX_SSH_LINE      = 4096,         /* one line of an ssh config */
    DS_MAX_SSH_INCLUDE   = 8,            /* files within files */
    DS_MAX_SSH_IDENTITY  = 8,            /* key files tried for one host */
    DS_MAX_SSH_JUMPS     = 8,            /* hosts on the way to one host */

    DS_MAX_LAYERS        = 1024,
    DS_MAX_HIDDEN        = 65536,
    DS_MAX_HEADS         = 1024,
    DS_MAX_FFN           = 1 << 20,
    DS_MAX_EXPERTS       = 256,          /* of a layer */
    DS_MAX_LORA_RANK     = 1024,
    DS_MAX_EXPERTS_EACH  = 16,           /* that one token is given to */
    DS_MAX_VOCAB         = 1 << 24,
    DS_MAX_CONTEXT       = 1 << 24,
    DS_MAX_BATCH         = 1 << 24,      /* sequences per optimizer step */
    DS_MAX_STEPS         = 1000000000,
    DS_MAX_EPOCHS        = 1000000,
    DS_MAX_OPTIM_GROUPS  = 64,
    DS_MAX_THREADS       = 1024,
    DS_MAX_DATA_FILES    = 65536,
    DS_MAX_DATA_SETS     = 256,          /* of a mixture */
    DS_MAX_VALID_NAMES   = 64,           /* that are evaluated apart */
    DS_MAX_MIX_CYCLE     = 1 << 20,      /* sequences after which its order of sets repeats */

    DS_MAX_JSON_BYTES    = 100 * 1000 * 1000, /* safetensors header, manifest (the format's own cap) */
    DS_MAX_TENSORS       = 1 << 20,
    DS_MAX_TENSOR_NAME   = 255,
    DS_MAX_TENSOR_DIMS   = 8,

    DS_MAX_LINE_BYTES    = 64 * 1024,    /* one line of rank output */
    DS_MAX_QUEUE_BYTES   = 8 * 1024 * 1024, /* unsent bytes to one peer */
    DS_MAX_FOLD_BYTES    = 1024 * 1024,  /* output of one host that is kept to be compared */
    DS_MAX_FOLD_ALL      = 64 * 1024 * 1024, /* and of all hosts, each different text once */
    DS_TAIL_LINES        = 20,           /* last stderr lines kept per rank for the error report */
};
/* clang-format on */

#endif
