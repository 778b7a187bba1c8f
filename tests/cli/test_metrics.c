/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_metrics.c - what stays of metrics.jsonl and metrics.csv when a run goes on, and CSV rows.
 */
#include <criterion/criterion.h>

#include <string.h>

#include "cli/metrics.h"

#define T(n)  "{\"step\":" #n ",\"loss\":1.5}\n"
#define V(n)  "{\"step\":" #n ",\"valid_loss\":2.5}\n"
#define HEAD  "step,loss,grad_norm,lr,tokens,tokens_per_s,step_ms,mfu,skipped,time,valid_loss\n"
#define CT(n) #n ",1.5,1,1,1,1,1,,0,1,\n"
#define CN(n) #n ",,,1,1,1,1,,0,1,\n" /* a step whose loss is not finite */
#define CV(n) #n ",,,,,,,,,1,2.5\n"

Test(metrics, cut)
{
    static const struct {
        const char *text;
        bool csv;
        uint64_t updates;
        const char *want;
    } table[] = {
        {T(0) T(1) T(2), false, 3, T(0) T(1) T(2)},
        {T(0) T(1) T(2), false, 2, T(0) T(1)},
        {T(0) T(1) V(2) T(2) V(3), false, 2, T(0) T(1) V(2)}, /* after two updates: it stays */
        {T(0) V(1) T(1), false, 0, ""},
        {V(0) T(0), false, 0, ""},
        {T(0) "{\"step\":1,\"lo", false, 5, T(0)}, /* torn */
        {T(0) "\n"
              "garbage\n"
              "{}\n" T(1),
         false, 5, T(0) T(1)}, /* damaged */
        {"{\"a\":\"step\",\"step\":7}\n", false, 8, "{\"a\":\"step\",\"step\":7}\n"},
        {"", false, 3, ""},
        {"\n", false, 3, ""},
        {HEAD CT(0) CT(1) CV(1) CT(2), true, 1, HEAD CT(0) CV(1)},
        {HEAD CT(0) CN(1) CV(2) CN(2), true, 2, HEAD CT(0) CN(1) CV(2)},
        {HEAD CT(0), true, 0, HEAD},
        {HEAD CT(0) "1,1.", true, 9, HEAD CT(0)},
        {HEAD CT(0) "x,1\n"
                    "3\n"
                    ",,\n",
         true, 9, HEAD CT(0)},
        {HEAD CT(18446744073709551615) CT(99999999999999999999), true, 9, HEAD},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        size_t len = strlen(table[i].text);
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        cr_assert_eq(ds_metrics_cut(table[i].text, len, table[i].csv, table[i].updates, &out), 0);
        cr_assert_str_eq(ds_buf_text(&out), table[i].want, "row %zu", i);
        ds_buf_release(&out);
    }
}

Test(metrics, cut_at_every_byte)
{
    static const char text[] = T(0) T(1) V(1) T(2);

    for (size_t len = 0; len < sizeof(text); len++) {
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        cr_assert_eq(ds_metrics_cut(text, len, false, 100, &out), 0);
        cr_assert(out.len <= len && memcmp(ds_buf_text(&out), text, out.len) == 0);
        cr_assert(out.len == 0 || text[out.len - 1] == '\n', "%zu bytes", len);
        ds_buf_release(&out);
    }
}

Test(metrics, rows)
{
    static const char columns[] =
        "step,loss,grad_norm,lr,tokens,tokens_per_s,step_ms,mfu,skipped,time,valid_loss";
    static const struct {
        const char *json, *want;
    } table[] = {
        {"{\"step\":7,\"loss\":0.1,\"grad_norm\":2.5,\"lr\":3e-4,\"tokens\":100,"
         "\"tokens_per_s\":1e6,\"step_ms\":3,\"mfu\":null,\"skipped\":0,\"time\":1.25}",
         "7,0.1,2.5,0.0003,100,1000000,3,,0,1.25,\n"},
        {"{\"step\":8,\"valid_loss\":5.545177444479562}", "8,,,,,,,,,,5.545177444479562\n"},
        {"{\"step\":\"x\",\"loss\":[1],\"other\":3}", ",,,,,,,,,,\n"},
        {"{\"step\":9007199254740993}", "9007199254740993,,,,,,,,,,\n"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        json_t *object = json_loads(table[i].json, 0, NULL);
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        cr_assert_eq(ds_metrics_csv_row(columns, object, &out), 0);
        cr_assert_str_eq(ds_buf_text(&out), table[i].want, "row %zu", i);
        ds_buf_release(&out);
        json_decref(object);
    }
}

/* Named evaluations have columns once there is one, and no other key has. */
Test(metrics, columns)
{
    static const struct {
        const char *json, *columns, *row;
    } table[] = {
        {"{\"step\":1,\"valid_loss\":2,\"expert_load\":3}", "step,valid_loss", "1,2\n"},
        {"{\"step\":2,\"valid_loss\":2.5,\"valid_loss/b\":3.5,\"valid_loss/a\":1.5}",
         "step,valid_loss,valid_loss/b,valid_loss/a", "2,2.5,3.5,1.5\n"},
        {"{\"step\":3,\"valid_loss/a\":4}", "step,valid_loss,valid_loss/b,valid_loss/a", "3,,,4\n"},
        {"{\"step\":4,\"valid_loss/a,b\":4,\"valid_loss/\\n\":4}",
         "step,valid_loss,valid_loss/b,valid_loss/a", "4,,,\n"},
        {"{\"valid_loss/ab\":null}", "step,valid_loss,valid_loss/b,valid_loss/a,valid_loss/ab",
         ",,,,\n"},
    };
    struct ds_buf columns;

    ds_buf_init(&columns, 4096);
    (void)ds_buf_puts(&columns, "step,valid_loss");
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        json_t *object = json_loads(table[i].json, 0, NULL);
        size_t before = columns.len;
        struct ds_buf out;

        ds_buf_init(&out, 4096);
        cr_expect_eq(ds_metrics_columns(&columns, object), strlen(table[i].columns) > before);
        cr_expect_str_eq(ds_buf_text(&columns), table[i].columns, "row %zu", i);
        cr_assert_eq(ds_metrics_csv_row(ds_buf_text(&columns), object, &out), 0);
        cr_expect_str_eq(ds_buf_text(&out), table[i].row, "row %zu", i);
        ds_buf_release(&out);
        json_decref(object);
    }
    ds_buf_release(&columns);
}
