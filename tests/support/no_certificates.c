/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * no_certificates.c - Criterion's processes read no certificates.
 *
 * Criterion is linked with libgit2, which in each process, so once for every test, reads all
 * certificates that the machine trusts, by Mbed TLS where it is built with that.  No test asks
 * libgit2 for anything.  Under AddressSanitizer with strict_string_checks that is most of what a
 * small test takes: every search for the next certificate measures the rest of the file.  The
 * dynamic loader finds this function before the library's; libgit2 goes on without certificates.
 * Where Criterion comes without Mbed TLS nothing calls it.
 *
 * Test  every Criterion program is linked with it.
 */
__attribute__((visibility("default"))) int mbedtls_x509_crt_parse_file(void *chain,
                                                                       const char *path);

int mbedtls_x509_crt_parse_file(void *chain, const char *path)
{
    (void)chain;
    (void)path;
    return -1;
}
