# cython: language_level=3
"""What CuPy calls of CUDA, without a device: memory is the host's, and what is launched goes to `on_launch`.

Functions have the names and C signatures of cupy_backends.cuda.api.runtime and .driver; under_cupy.py puts
them in the place of those. Streams and events are numbers, and nothing is ever pending.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport intptr_t
from libc.string cimport memcpy as copy_bytes, memset as fill_bytes

cdef extern from *:
    """
    #include <stdlib.h>
    static _Thread_local int of_thread = 0;
    static void *aligned(size_t size) {
        void *address = NULL;
        return posix_memalign(&address, 512, size ? size : 1) ? NULL : address;
    }
    """
    int of_thread
    void *aligned(size_t size)
    void release "free"(void *address)

# Numbers of cudaDeviceAttr -> those of an H100. It has one multiprocessor here, so that blocks have several
# sequences one after the other. What is asked besides is 1.
cdef dict ATTRIBUTES = {1: 1024, 12: 65536, 16: 1, 39: 2048, 75: 9, 76: 0, 97: 232448}

DEVICES = 2

on_launch = None  # called with (kernel, blocks, threads, shared bytes, stream, extra)
capturing = set()  # handles of streams that are being captured
with_context = True  # whether threads have a context

cdef intptr_t handles = 4096
cdef enum:
    UNWRITTEN = 0xFF  # each byte: NaN, whatever the dtype


cdef intptr_t new_handle():
    global handles
    handles += 1
    return handles


# ---- the runtime


cpdef api int getDeviceCount() except? -1:
    return DEVICES


cpdef api int getDevice() except? -1:
    return of_thread


cpdef api setDevice(int device):
    global of_thread, with_context
    of_thread, with_context = device, True


cpdef api int deviceGetAttribute(int attribute, int device) except? -1:
    return ATTRIBUTES.get(attribute, 1)


cpdef api deviceSynchronize():
    pass


cdef api _ensure_context():
    pass


cpdef api intptr_t malloc(size_t size) except? 0:
    cdef void *address = aligned(size)
    if address == NULL:
        raise MemoryError(size)
    fill_bytes(address, UNWRITTEN, size)
    return <intptr_t> address


cpdef api free(intptr_t address):
    release(<void *> address)


cpdef api memcpy(intptr_t to, intptr_t source, size_t size, int kind):
    copy_bytes(<void *> to, <void *> source, size)


cpdef api memcpyAsync(intptr_t to, intptr_t source, size_t size, int kind, intptr_t stream):
    copy_bytes(<void *> to, <void *> source, size)


cpdef api memset(intptr_t to, int value, size_t size):
    fill_bytes(<void *> to, value, size)


cpdef api memsetAsync(intptr_t to, int value, size_t size, intptr_t stream):
    fill_bytes(<void *> to, value, size)


cpdef api int pointerGetMemoryType(intptr_t address) except? -1:
    return 1  # of the host, pinned: CuPy then copies from there at once


cpdef api intptr_t streamCreate() except? 0:
    return new_handle()


cpdef api intptr_t streamCreateWithFlags(unsigned int flags) except? 0:
    return new_handle()


cpdef api intptr_t streamCreateWithPriority(unsigned int flags, int priority) except? 0:
    return new_handle()


cpdef api streamDestroy(intptr_t stream):
    pass


cpdef api streamSynchronize(intptr_t stream):
    pass


cpdef api int streamIsCapturing(intptr_t stream) except? -1:
    return stream in capturing


cpdef api intptr_t eventCreateWithFlags(unsigned int flags) except? 0:
    return new_handle()


cpdef api eventDestroy(intptr_t event):
    pass


cpdef api eventRecord(intptr_t event, intptr_t stream):
    pass


# ---- the driver


cpdef api intptr_t ctxGetCurrent() except? -1:
    return with_context


cpdef api intptr_t moduleLoadData(image) except? 0:
    return new_handle()


cpdef api moduleUnload(intptr_t module):
    pass


cpdef api intptr_t moduleGetFunction(intptr_t module, str name) except? 0:
    return new_handle()


cpdef api int funcGetAttribute(int attribute, intptr_t kernel) except? -1:
    return 0


cpdef api funcSetAttribute(intptr_t kernel, int attribute, int value):
    pass


cpdef api launchKernel(
    intptr_t kernel, unsigned int blocks, unsigned int y, unsigned int z, unsigned int threads,
    unsigned int of_y, unsigned int of_z, unsigned int shared_bytes, intptr_t stream, intptr_t parameters,
    intptr_t extra
):
    if on_launch is not None:
        on_launch(kernel, blocks, threads, shared_bytes, stream, extra)


# ---- for measurements of code that hands over capsules


def on_device(capsule, int device_type):
    """A DLPack capsule, whose memory is said to be on this type of device from now on."""
    (<int *> (<char *> PyCapsule_GetPointer(capsule, b"dltensor") + sizeof(void *)))[0] = device_type
    return capsule
