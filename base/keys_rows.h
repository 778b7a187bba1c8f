/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * keys_rows.h - between keys_value.c and keys_rows.c: keys of the type ROWS.
 *
 * Tests   tests/base/test_keys.c
 */
#ifndef DS_BASE_KEYS_ROWS_H
#define DS_BASE_KEYS_ROWS_H

#include "base/keys.h"

/* On failure `*at` is where in the node. */
int ds__key_set_rows(const struct ds_key *key, void *base, struct ds_arena *arena,
                     const struct ds_yaml *node, struct ds_yaml_mark *at, struct ds_error *err)
    DS_NODISCARD;
void ds__key_print_rows(const struct ds_key *key, const void *base, struct ds_buf *out);

#endif
