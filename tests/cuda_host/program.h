// A kernel as a program of its own, for the sanitizers: python -m tests' side writes `launch.bin`, this
// runs it and writes `results.bin`. The format is that of raw_module.py's _launch_file.
#ifndef CUDA_HOST_PROGRAM_H
#define CUDA_HOST_PROGRAM_H

#include "runtime.h"

namespace cuda_host {

inline void read_exactly(FILE *file, void *to, size_t size) {
    if (fread(to, 1, size, file) != size) abort();
}

// Every array is an allocation of its own, of exactly its size.
inline int program(int argc, char **argv, const char *(*launch_kernel)(void **, const Launch *)) {
    if (argc != 3) return 2;
    FILE *in = fopen(argv[1], "rb");
    Launch launch;
    long long count;
    read_exactly(in, &launch, sizeof launch);
    read_exactly(in, &count, sizeof count);
    void **arguments = (void **)calloc(count + 1, sizeof(void *));
    void **pointers = (void **)calloc(count + 1, sizeof(void *));
    long long *sizes = (long long *)calloc(count + 1, sizeof(long long));
    for (long long i = 0; i < count; i++) {
        long long is_array;
        read_exactly(in, &is_array, sizeof is_array);
        read_exactly(in, &sizes[i], sizeof sizes[i]);
        void *memory = malloc(sizes[i] > 0 ? sizes[i] : 1);
        read_exactly(in, memory, sizes[i]);
        pointers[i] = memory;
        arguments[i] = is_array ? (void *)&pointers[i] : memory;
        if (!is_array) sizes[i] = 0;
    }
    fclose(in);
    const char *wrong = launch_kernel(arguments, &launch);
    if (wrong != nullptr) {
        fprintf(stderr, "cuda_host: %s\n", wrong);
        return 3;
    }
    FILE *out = fopen(argv[2], "wb");
    for (long long i = 0; i < count; i++)
        if (sizes[i] > 0) fwrite(pointers[i], 1, sizes[i], out);
    fclose(out);
    return 0;
}

} // namespace cuda_host

#endif
