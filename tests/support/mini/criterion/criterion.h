/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * criterion.h - the part of Criterion that the tests of threaded rooms use, in one process.
 *
 * Criterion does not start under ThreadSanitizer.  With -Itests/support/mini in front, the same test
 * sources compile against this header: tests run one after the other in main(), a failed assertion
 * ends the program with 1, and the sanitizer's verdict is the program's own exit status.
 *
 * Who defines mini_start(), which starts a thread (tests/gpu/on_device.h), has each test in one: a
 * failed assertion ends that, and all tests are run.  Not under ThreadSanitizer, where what a
 * process with several threads forks may start none.
 */
#ifndef DS_TESTS_MINI_CRITERION_H
#define DS_TESTS_MINI_CRITERION_H
#pragma GCC system_header

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct
    mini_options { /* what may stand behind the name in Test(); all but .init and .fini is ignored */
    void (*init)(void), (*fini)(void);
    double timeout;
    int signal, exit_code;
    bool disabled;
};
struct mini_suite {
    const char *name;
    struct mini_options options;
    struct mini_suite *next;
};
struct mini_test {
    const char *suite, *name;
    void (*body)(void);
    struct mini_options options;
    struct mini_test *next;
};
static struct mini_suite *mini_suites;
static struct mini_test *mini_tests;

#define TestSuite(suite_, ...)                                                                     \
    __attribute__((constructor)) static void mini_##suite_##_add(void)                             \
    {                                                                                              \
        static struct mini_suite set_ = {#suite_, {__VA_ARGS__}, NULL};                            \
        set_.next = mini_suites;                                                                   \
        mini_suites = &set_;                                                                       \
    }                                                                                              \
    struct mini_##suite_##_ends_with_a_semicolon

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_body(void);                                                     \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                          \
    {                                                                                              \
        static struct mini_test test_ = {                                                          \
            #suite_, #name_, suite_##_##name_##_body, {__VA_ARGS__}, NULL};                        \
        test_.next = mini_tests;                                                                   \
        mini_tests = &test_;                                                                       \
    }                                                                                              \
    static void suite_##_##name_##_body(void)

static pthread_t mini_thread; /* of the test that runs */
static pid_t mini_pid;
static unsigned mini_failures; /* of that test */

static inline void mini_fail(bool go_on)
{
    if (getpid() != mini_pid || !pthread_equal(pthread_self(), mini_thread))
        exit(1);
    mini_failures++;
    if (go_on)
        return;
#ifdef mini_start
    pthread_exit(NULL);
#else
    exit(1);
#endif
}

#define mini_check(go_on_, cond_, ...)                                                             \
    do {                                                                                           \
        if (!(cond_)) {                                                                            \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond_);                            \
            fprintf(stderr, "" __VA_ARGS__);                                                       \
            fprintf(stderr, "\n");                                                                 \
            mini_fail(go_on_);                                                                     \
        }                                                                                          \
    } while (0)
#define cr_assert(cond_, ...)         mini_check(false, cond_, __VA_ARGS__)
#define cr_expect(cond_, ...)         mini_check(true, cond_, __VA_ARGS__)
#define cr_assert_eq(a_, b_, ...)     cr_assert((a_) == (b_), __VA_ARGS__)
#define cr_assert_neq(a_, b_, ...)    cr_assert((a_) != (b_), __VA_ARGS__)
#define cr_assert_lt(a_, b_, ...)     cr_assert((a_) < (b_), __VA_ARGS__)
#define cr_assert_leq(a_, b_, ...)    cr_assert((a_) <= (b_), __VA_ARGS__)
#define cr_assert_gt(a_, b_, ...)     cr_assert((a_) > (b_), __VA_ARGS__)
#define cr_assert_geq(a_, b_, ...)    cr_assert((a_) >= (b_), __VA_ARGS__)
#define cr_assert_not(a_, ...)        cr_assert(!(a_), __VA_ARGS__)
#define cr_assert_null(a_, ...)       cr_assert((a_) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a_, ...)   cr_assert((a_) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a_, b_, ...) cr_assert(strcmp((a_), (b_)) == 0, __VA_ARGS__)
#define cr_assert_arr_eq(a_, b_, bytes_, ...)                                                      \
    cr_assert(memcmp((a_), (b_), (bytes_)) == 0, __VA_ARGS__)
#define cr_assert_float_eq(a_, b_, eps_, ...)                                                      \
    cr_assert(fabs((double)(a_) - (double)(b_)) <= (eps_), __VA_ARGS__)
#define cr_assert_fail(...)           cr_assert(!"reached", __VA_ARGS__)
#define cr_expect_eq(a_, b_, ...)     cr_expect((a_) == (b_), __VA_ARGS__)
#define cr_expect_str_eq(a_, b_, ...) cr_expect(strcmp((a_), (b_)) == 0, __VA_ARGS__)
#define cr_log_info(...)              ((void)fprintf(stderr, "" __VA_ARGS__), (void)fputc('\n', stderr))

static inline void mini_call(void (*fn)(void))
{
    if (fn != NULL)
        fn();
}

static inline bool mini_is_run(const struct mini_test *test)
{
    return !test->options.disabled && !test->options.signal && !test->options.exit_code;
}

static inline void *mini_body(void *arg)
{
    const struct mini_test *test = arg;
    const struct mini_suite *suite = mini_suites;

    mini_thread = pthread_self();
    while (suite != NULL && strcmp(suite->name, test->suite) != 0)
        suite = suite->next;
    mini_call(suite != NULL ? suite->options.init : NULL);
    mini_call(test->options.init);
    test->body();
    mini_call(test->options.fini);
    mini_call(suite != NULL ? suite->options.fini : NULL);
    return NULL;
}

/* Did it pass? */
static inline bool mini_run(struct mini_test *test)
{
    mini_failures = 0;
#ifdef mini_start
    pthread_t thread;

    if (mini_start(&thread, mini_body, test) != 0 || pthread_join(thread, NULL) != 0)
        return false;
#else
    mini_body(test);
#endif
    return mini_failures == 0;
}

/* --tap=FILE, as tests/run gives it: the results go there. */
int main(int argc, char **argv)
{
    unsigned count = 0, failed = 0;

    mini_pid = getpid();
    if (argc > 1 && strncmp(argv[1], "--tap=", 6) == 0 &&
        freopen(argv[1] + 6, "we", stdout) == NULL)
        return 1;
    for (struct mini_test *test = mini_tests; test; test = test->next)
        if (mini_is_run(test)) {
            bool passed = mini_run(test);

            printf("%s - %s::%s\n", passed ? "ok" : "not ok", test->suite, test->name);
            fflush(stdout); /* not once more by a child that the next one forks */
            count++;
            failed += !passed;
        }
    return count == 0 || failed > 0;
}

#endif
