/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_cluster.c - any bytes as the description of a cluster, which machine.yaml is, too.
 *
 * Beyond "no crash": a refusal has a reason, and one that is taken is written and read back as the same.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/limits.h"
#include "runtime/cost/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_cluster cluster, again;
    struct ds_error err = {0};
    struct ds_buf first, second;
    int rc;

    ds_cluster_init(&cluster);
    ds_cluster_init(&again);
    ds_buf_init(&first, 4 * DS_MAX_YAML_BYTES);
    ds_buf_init(&second, 4 * DS_MAX_YAML_BYTES);
    rc = ds_cluster_parse(&cluster, "cluster.yaml", data, size, &err);
    assert(rc == 0 || err.text[0] != '\0');
    if (rc == 0) {
        rc = ds_cluster_write(&cluster, &first, &err);
        assert(rc == 0);
        if (first.len <= DS_MAX_YAML_BYTES) { /* escapes may make it larger than what was read */
            rc = ds_cluster_parse(&again, "again", first.data, first.len, &err);
            assert(rc == 0);
            rc = ds_cluster_write(&again, &second, &err);
            assert(rc == 0 && strcmp(ds_buf_text(&first), ds_buf_text(&second)) == 0);
        }
    }
    ds_buf_release(&first);
    ds_buf_release(&second);
    ds_cluster_release(&cluster);
    ds_cluster_release(&again);
    return 0;
}
