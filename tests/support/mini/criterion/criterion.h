/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * criterion.h - the part of Criterion that the tests of threaded rooms use, in one process.
 *
 * Criterion does not start under ThreadSanitizer.  With -Itests/support/mini in front, the same test
 * sources compile against this header: tests run one after the other in main(), a failed assertion
 * ends the program with 1, and the sanitizer's verdict is the program's own exit status.
 */
#ifndef DS_TESTS_MINI_CRITERION_H
#define DS_TESTS_MINI_CRITERION_H
#pragma GCC system_header

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mini_test {
    const char *suite, *name;
    void (*body)(void);
    struct mini_test *next;
};
struct
    mini_options { /* what may stand behind the name in Test(); all but .init and .fini is ignored */
    void (*init)(void), (*fini)(void);
    double timeout;
    int signal, exit_code;
    bool disabled;
};
static struct mini_test *mini_tests;

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_body(void);                                                     \
    static void suite_##_##name_##_run(void)                                                       \
    {                                                                                              \
        struct mini_options options_ = {__VA_ARGS__};                                              \
        if (options_.disabled || options_.signal || options_.exit_code)                            \
            return;                                                                                \
        if (options_.init)                                                                         \
            options_.init();                                                                       \
        suite_##_##name_##_body();                                                                 \
        if (options_.fini)                                                                         \
            options_.fini();                                                                       \
    }                                                                                              \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                          \
    {                                                                                              \
        static struct mini_test test_ = {#suite_, #name_, suite_##_##name_##_run, NULL};           \
        test_.next = mini_tests;                                                                   \
        mini_tests = &test_;                                                                       \
    }                                                                                              \
    static void suite_##_##name_##_body(void)
#define TestSuite(suite_, ...) struct mini_suite_##suite_

#define cr_assert(cond_, ...)                                                                      \
    do {                                                                                           \
        if (!(cond_)) {                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond_);                            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define cr_assert_eq(a_, b_, ...)             cr_assert((a_) == (b_))
#define cr_assert_neq(a_, b_, ...)            cr_assert((a_) != (b_))
#define cr_assert_lt(a_, b_, ...)             cr_assert((a_) < (b_))
#define cr_assert_leq(a_, b_, ...)            cr_assert((a_) <= (b_))
#define cr_assert_gt(a_, b_, ...)             cr_assert((a_) > (b_))
#define cr_assert_geq(a_, b_, ...)            cr_assert((a_) >= (b_))
#define cr_assert_not(a_, ...)                cr_assert(!(a_))
#define cr_assert_null(a_, ...)               cr_assert((a_) == NULL)
#define cr_assert_not_null(a_, ...)           cr_assert((a_) != NULL)
#define cr_assert_str_eq(a_, b_, ...)         cr_assert(strcmp((a_), (b_)) == 0)
#define cr_assert_arr_eq(a_, b_, bytes_, ...) cr_assert(memcmp((a_), (b_), (bytes_)) == 0)
#define cr_assert_float_eq(a_, b_, eps_, ...) cr_assert(fabs((double)(a_) - (double)(b_)) <= (eps_))
#define cr_assert_fail(...)                   cr_assert(!"reached")
#define cr_expect                             cr_assert
#define cr_expect_eq                          cr_assert_eq
#define cr_expect_str_eq                      cr_assert_str_eq

int main(void)
{
    unsigned count = 0;

    for (struct mini_test *test = mini_tests; test; test = test->next, count++) {
        test->body();
        printf("ok - %s::%s\n", test->suite, test->name);
    }
    return count == 0;
}

#endif
