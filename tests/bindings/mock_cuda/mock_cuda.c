/* Mock of the CUDA driver library: host memory plays device memory, one "Tesla T4 (mock)", compute capability 7.5.
 * Lets pycuda (and the driver half of cuda-bindings) run memory, stream and event code on a machine without a GPU.
 * Not covered: kernels, modules, textures (they return 801 NOT_SUPPORTED) and the CUDA runtime API, so TensorRT cannot
 * run on it: cudart asks for private tables through cuGetExportTable.
 * Built by prepare.py. MOCK_CUDA_MEM=<bytes> sets the memory size (default 15 GiB); going over it gives error 2. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef uint64_t ptr;                                       /* CUdeviceptr */
typedef void *obj;                                          /* context, stream, event */
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500 };
#define API(name, ...) int name(__VA_ARGS__)                /* prepare.py reads the implemented names from these */
int mock_unsupported(void) { return 801; }

/* device */
static size_t total(void) { const char *e = getenv("MOCK_CUDA_MEM"); return e ? strtoull(e, 0, 10) : 15ull << 30; }
API(cuInit, unsigned flags) { return OK; }
API(cuDriverGetVersion, int *v) { const char *s = getenv("MOCK_CUDA_VERSION"); *v = s ? atoi(s) : 13000; return OK; }
API(cuDeviceGetCount, int *n) { *n = 1; return OK; }
API(cuDeviceGet, int *d, int i) { *d = 0; return i ? INVALID_DEVICE : OK; }
API(cuDeviceGetName, char *s, int n, int d) { snprintf(s, n, "Tesla T4 (mock)"); return OK; }
API(cuDeviceTotalMem_v2, size_t *n, int d) { *n = total(); return OK; }
API(cuDeviceComputeCapability, int *a, int *b, int d) { *a = 7; *b = 5; return OK; }
API(cuDeviceGetPCIBusId, char *s, int n, int d) { snprintf(s, n, "0000:00:04.0"); return OK; }
API(cuDeviceGetAttribute, int *v, int a, int d) {
    static const int t[][2] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535},
        {8, 49152}, {9, 65536}, {10, 32}, {12, 65536}, {13, 1590000}, {14, 512}, {15, 1}, {16, 40}, {19, 1}, {31, 1},
        {36, 5001000}, {37, 256}, {38, 4194304}, {39, 1024}, {40, 3}, {41, 1}, {75, 7}, {76, 5}, {81, 65536}};
    *v = 0;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) if (t[i][0] == a) *v = t[i][1];
    return OK;
}

/* contexts: a real per-thread stack, so a missing push or pop shows up as error 201 as it does on a GPU */
static char primary, own[64];
static int nown;
static __thread obj stack[32];
static __thread int depth;
static int push(obj c) { if (depth == 32) return INVALID_VALUE; stack[depth++] = c; return OK; }
static obj top(void) { return depth ? stack[depth - 1] : 0; }
API(cuDevicePrimaryCtxRetain, obj *c, int d) { *c = &primary; return OK; }
API(cuDevicePrimaryCtxRelease_v2, int d) { return OK; }
API(cuCtxCreate_v2, obj *c, unsigned f, int d) { *c = own + nown++ % 64; return push(*c); }
API(cuCtxCreate_v4, obj *c, void *params, unsigned f, int d) { return cuCtxCreate_v2(c, f, d); }
API(cuCtxDestroy_v2, obj c) { if (top() == c) depth--; return OK; }
API(cuCtxDetach, obj c) { return cuCtxDestroy_v2(c); }
API(cuCtxPushCurrent_v2, obj c) { return push(c); }
API(cuCtxPopCurrent_v2, obj *c) { if (!depth) return INVALID_CONTEXT; depth--; if (c) *c = stack[depth]; return OK; }
API(cuCtxGetCurrent, obj *c) { *c = top(); return OK; }
API(cuCtxSetCurrent, obj c) { if (depth) depth--; return c ? push(c) : OK; }
API(cuCtxGetDevice, int *d) { *d = 0; return top() ? OK : INVALID_CONTEXT; }
API(cuCtxGetApiVersion, obj c, unsigned *v) { *v = 3020; return OK; }
API(cuCtxSynchronize, void) { return top() ? OK : INVALID_CONTEXT; }

/* memory: every block carries its size in front, so mem_get_info moves and a leak test can look at it */
#define HEAD 256
static size_t used;
static int get(void *out, size_t n) {
    char *b;
    if (!top()) return INVALID_CONTEXT;
    if (!n) return INVALID_VALUE;
    if (used + n > total()) return OUT_OF_MEMORY;
    if (posix_memalign((void **)&b, HEAD, n + HEAD)) return OUT_OF_MEMORY;
    memset(b, 0, n + HEAD);
    *(size_t *)b = n; used += n;
    *(void **)out = b + HEAD;
    return OK;
}
static int put(void *p) { if (!p) return OK; char *b = (char *)p - HEAD; used -= *(size_t *)b; free(b); return OK; }
static int copy(void *d, const void *s, size_t n) { if (!top()) return INVALID_CONTEXT; memcpy(d, s, n); return OK; }
API(cuMemGetInfo_v2, size_t *f, size_t *t) { *t = total(); *f = *t - used; return OK; }
API(cuMemAlloc_v2, ptr *p, size_t n) { return get(p, n); }
API(cuMemFree_v2, ptr p) { return put((void *)p); }
API(cuMemAllocManaged, ptr *p, size_t n, unsigned f) { return get(p, n); }
API(cuMemHostAlloc, void **p, size_t n, unsigned f) { return get(p, n); }
API(cuMemFreeHost, void *p) { return put(p); }
API(cuMemcpyHtoD_v2, ptr d, const void *s, size_t n) { return copy((void *)d, s, n); }
API(cuMemcpyDtoH_v2, void *d, ptr s, size_t n) { return copy(d, (void *)s, n); }
API(cuMemcpyDtoD_v2, ptr d, ptr s, size_t n) { return copy((void *)d, (void *)s, n); }
API(cuMemcpyHtoDAsync_v2, ptr d, const void *s, size_t n, obj st) { return copy((void *)d, s, n); }
API(cuMemcpyDtoHAsync_v2, void *d, ptr s, size_t n, obj st) { return copy(d, (void *)s, n); }
API(cuMemcpyDtoDAsync_v2, ptr d, ptr s, size_t n, obj st) { return copy((void *)d, (void *)s, n); }
API(cuMemsetD8_v2, ptr d, unsigned char c, size_t n) { memset((void *)d, c, n); return OK; }
API(cuMemsetD8Async, ptr d, unsigned char c, size_t n, obj st) { memset((void *)d, c, n); return OK; }
API(cuMemsetD32_v2, ptr d, unsigned c, size_t n) { while (n--) ((unsigned *)d)[n] = c; return OK; }
API(cuMemsetD32Async, ptr d, unsigned c, size_t n, obj st) { return cuMemsetD32_v2(d, c, n); }

/* streams and events: everything is synchronous, so they only have to exist */
static int make(obj *o) { *o = calloc(1, 64); return top() ? OK : INVALID_CONTEXT; }
API(cuStreamCreate, obj *s, unsigned f) { return make(s); }
API(cuStreamDestroy_v2, obj s) { free(s); return OK; }
API(cuStreamSynchronize, obj s) { return OK; }
API(cuStreamQuery, obj s) { return OK; }
API(cuStreamWaitEvent, obj s, obj e, unsigned f) { return OK; }
API(cuEventCreate, obj *e, unsigned f) { return make(e); }
API(cuEventDestroy_v2, obj e) { free(e); return OK; }
API(cuEventRecord, obj e, obj s) { return OK; }
API(cuEventSynchronize, obj e) { return OK; }
API(cuEventQuery, obj e) { return OK; }
API(cuEventElapsedTime, float *ms, obj a, obj b) { *ms = 0.01f; return OK; }
API(cuEventElapsedTime_v2, float *ms, obj a, obj b) { *ms = 0.01f; return OK; }

/* errors, and the lookup that cuda-bindings uses instead of linking */
API(cuGetErrorName, int e, const char **s) { *s = "MOCK_CUDA_ERROR"; return OK; }
API(cuGetErrorString, int e, const char **s) { *s = "error from the mock CUDA driver"; return OK; }
API(cuGetProcAddress_v2, const char *name, void **fn, int ver, uint64_t flags, int *status) {
    char v2[128];
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    snprintf(v2, sizeof v2, "%s_v2", name);
    *fn = self ? dlsym(self, v2) : 0;
    if (!*fn && self) *fn = dlsym(self, name);
    if (status) *status = *fn ? 0 : 1;
    return *fn ? OK : NOT_FOUND;
}
API(cuGetProcAddress, const char *name, void **fn, int ver, uint64_t flags) { return cuGetProcAddress_v2(name, fn, ver, flags, 0); }
