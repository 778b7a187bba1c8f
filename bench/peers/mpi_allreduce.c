/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mpi_allreduce - time MPI_Allreduce in place; the peer of bench/allreduce.c.
 *
 *     mpirun -n 2 mpi_allreduce MIB REPS
 *
 * Prints one JSON line of the same form: rank 0's time from a barrier to the end of the
 * operation, median and least of REPS after three unmeasured ones.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM = 3, MAX_REPS = 1000 };

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void fill(float *buf, int n, float value)
{
    for (int i = 0; i < n; i++)
        buf[i] = value;
}

static int check(const float *buf, int n, float expected)
{
    for (int i = 0; i < n; i++)
        if (buf[i] < expected || buf[i] > expected)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    static double ms[MAX_REPS];
    static char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int rank, world, length, wrong = 0;
    long mib = argc > 1 ? strtol(argv[1], NULL, 10) : 64;
    long reps = argc > 2 ? strtol(argv[2], NULL, 10) : 15;
    float *buf;
    int n;

    MPI_Init(&argc, &argv);
    if (mib < 1 || mib > 4096 || reps < 1 || reps > MAX_REPS)
        MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Get_library_version(version, &length);
    n = (int)(mib << 18);
    buf = malloc((size_t)n * sizeof(*buf));
    if (buf == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int k = 0; k < (int)reps + WARM; k++) {
        double began;

        fill(buf, n, (float)(rank + 1));
        MPI_Barrier(MPI_COMM_WORLD);
        began = MPI_Wtime();
        MPI_Allreduce(MPI_IN_PLACE, buf, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (k >= WARM)
            ms[k - WARM] = (MPI_Wtime() - began) * 1e3;
        wrong |= check(buf, n, (float)(world * (world + 1) / 2));
    }
    qsort(ms, (size_t)reps, sizeof(*ms), by_value);
    if (rank == 0)
        printf("{\"what\":\"all_reduce\",\"peer\":\"mpi\",\"ranks\":%d,\"bytes\":%ld,\"reps\":%ld,"
               "\"median_ms\":%.3f,\"min_ms\":%.3f,\"gb_s\":%.3f,\"version\":\"%.40s\"}\n",
               world, mib << 20, reps, ms[reps / 2], ms[0],
               (double)(mib << 20) / ms[reps / 2] / 1e6, version);
    free(buf);
    MPI_Finalize();
    return wrong;
}
