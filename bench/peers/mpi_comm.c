/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mpi_comm - time MPI's all-reduce, reduce-scatter and all-gather, in place.
 *
 *     mpirun -n RANKS mpi_comm BYTES REPS
 *
 * Prints one JSON line: rank 0's time from a barrier to the end of each operation, the median of
 * REPS after three unmeasured ones.  Every result is checked; a wrong one is exit 1.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM = 3, MAX_REPS = 1000, OPS = 3 };

static const char *const name[OPS] = {"all_reduce", "reduce_scatter", "all_gather"};
static int rank, world;

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void call(int op, float *buf, int n)
{
    if (op == 0)
        MPI_Allreduce(MPI_IN_PLACE, buf, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (op == 1)
        MPI_Reduce_scatter_block(MPI_IN_PLACE, buf, n / world, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buf, n / world, MPI_FLOAT,
                      MPI_COMM_WORLD);
}

/* Every rank gave its number + 1 everywhere. */
static int wrong(int op, const float *buf, int n)
{
    int got = op == 1 ? n / world : n;

    for (int i = 0; i < got; i++) {
        int expected = op == 2 ? i / (n / world) + 1 : world * (world + 1) / 2;

        if (buf[i] < (float)expected || buf[i] > (float)expected)
            return 1;
    }
    return 0;
}

static double median(int op, float *buf, int n, int reps, int *bad)
{
    static double ms[MAX_REPS];

    for (int k = 0; k < reps + WARM; k++) {
        double began;

        for (int i = 0; i < n; i++)
            buf[i] = (float)(rank + 1);
        MPI_Barrier(MPI_COMM_WORLD);
        began = MPI_Wtime();
        call(op, buf, n);
        if (k >= WARM)
            ms[k - WARM] = (MPI_Wtime() - began) * 1e3;
        *bad |= wrong(op, buf, n);
    }
    qsort(ms, (size_t)reps, sizeof(*ms), by_value);
    return ms[reps / 2];
}

int main(int argc, char **argv)
{
    static char version[MPI_MAX_LIBRARY_VERSION_STRING];
    long bytes = argc > 1 ? strtol(argv[1], NULL, 10) : 64L << 20;
    long reps = argc > 2 ? strtol(argv[2], NULL, 10) : 9;
    int length, n, bad = 0;
    double ms[OPS];
    float *buf;

    MPI_Init(&argc, &argv);
    if (bytes < 4096 || bytes > 1L << 32 || reps < 1 || reps > MAX_REPS)
        MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Get_library_version(version, &length);
    n = (int)(bytes / (long)sizeof(*buf) / world) * world;
    buf = malloc((size_t)n * sizeof(*buf));
    if (buf == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int op = 0; op < OPS; op++)
        ms[op] = median(op, buf, n, (int)reps, &bad);
    if (rank == 0) {
        printf("{\"ranks\":%d,\"bytes\":%ld,\"version\":\"%.40s\",\"median_ms\":{", world, bytes,
               version);
        for (int op = 0; op < OPS; op++)
            printf("%s\"%s\":%.3f", op == 0 ? "" : ",", name[op], ms[op]);
        printf("}}\n");
    }
    free(buf);
    MPI_Finalize();
    return bad;
}
