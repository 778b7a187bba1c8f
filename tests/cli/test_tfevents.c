/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_tfevents.c - records of TensorBoard's files, byte for byte as another program made them.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <string.h>

#include "cli/tfevents.h"

static void expect(struct ds_buf *record, const char *hex)
{
    char got[512] = "";

    for (size_t i = 0; i < record->len; i++)
        (void)snprintf(got + 2 * i, sizeof(got) - 2 * i, "%02x", (unsigned char)record->data[i]);
    cr_assert_str_eq(got, hex);
    ds_buf_release(record);
}

static void scalars(const char *json, struct ds_buf *out)
{
    json_t *line = json_loads(json, 0, NULL);

    ds_buf_init(out, 4096);
    cr_assert_eq(ds_tfevents_scalars(line, 1.5, out), 0);
    json_decref(line);
}

Test(tfevents, records)
{
    struct ds_buf out;

    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_tfevents_version(1.5, &out), 0);
    expect(&out,
           "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c");
    ds_buf_init(&out, 4096);
    cr_assert_eq(ds_tfevents_start(300, 1.5, &out), 0);
    expect(&out, "100000000000000095fbfe1809000000000000f83f10ac023a020801713b788a");
}

Test(tfevents, lines)
{
    struct ds_buf out;

    scalars("{\"step\":5,\"loss\":2.5,\"note\":\"x\",\"grad_norm\":null,\"lr\":0.125,\"time\":7}",
            &out);
    expect(
        &out,
        "2500000000000000eabc36f3090000000000001c4010052a180a0b0a046c6f737315000020400a090a026c7215"
        "0000003ee29d768d");
    scalars("{\"step\":50,\"valid_loss\":3}", &out); /* has the step of update 49 */
    expect(&out, "200000000000000029eda95009000000000000f83f10312a130a110a0a76616c69645f6c6f7373150"
                 "00040400102"
                 "23cb");
    scalars("{\"step\":50,\"valid_loss\":null}", &out);
    expect(&out, "");
}

Test(tfevents, too_long)
{
    json_t *line = json_object();
    struct ds_buf out;

    json_object_set_new(line, "loss", json_integer(1));
    ds_buf_init(&out, 20);
    cr_assert_eq(ds_tfevents_scalars(line, 1.5, &out), -ENOMEM);
    ds_buf_release(&out);
    json_decref(line);
}

Test(tfevents, nothing_is_open)
{
    struct ds_tfevents events = {.path = ""};

    cr_assert_eq(ds_tfevents_add(&events, NULL, NULL), 0);
    cr_assert_eq(ds_tfevents_resume(&events, 1, NULL), 0);
    cr_assert_eq(ds_tfevents_flush(&events, NULL), 0);
    ds_tfevents_close(&events);
}
