//go:build cuda && linux && amd64

// The functions of the CUDA driver that gorgonia.org/cu calls, forwarded to
// libcuda.so.1, which is looked up when the program starts. So a binary built
// with the tag cuda also starts where there is no driver, and can be linked
// where there is none. (That package calls cuInit before main and ends the
// program if it fails; the forwarded cuInit does nothing, and Open calls the real one.)
#include <dlfcn.h>
#include <stddef.h>

static void *library;

static int missing(void) { return 3; } // CUDA_ERROR_NOT_INITIALIZED

int cuInit(unsigned flags)
{
  (void)flags;
  return 0;
}

const char *sageacc_driver_error(void)
{
  return library ? NULL : "cannot load libcuda.so.1";
}

int sageacc_driver_init(void)
{
  int (*init)(unsigned) = library ? (int (*)(unsigned))dlsym(library, "cuInit") : NULL;
  return init ? init(0) : missing();
}

// cuFuncSetAttribute with CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
int sageacc_allow_shared(void *function, int bytes)
{
  int (*set)(void *, int, int) = library ? (int (*)(void *, int, int))dlsym(library, "cuFuncSetAttribute") : NULL;
  return set ? set(function, 8, bytes) : missing();
}

#define FORWARD(NAME)                                                            \
  void *sageacc_##NAME __attribute__((used, visibility("hidden"))) = missing;    \
  __asm__(".pushsection .text\n.globl " #NAME "\n.hidden " #NAME                 \
          "\n.type " #NAME ", @function\n" #NAME ":\n  jmp *sageacc_" #NAME       \
          "(%rip)\n.popsection\n");
#include "functions.inc"
#undef FORWARD

__attribute__((constructor)) static void look_up(void)
{
  library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return;
  void *f;
#define FORWARD(NAME) \
  if ((f = dlsym(library, #NAME))) \
    sageacc_##NAME = f;
#include "functions.inc"
}
