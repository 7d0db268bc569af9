// Codes of Q and K toward zero.
#define CODES_TOWARD_ZERO 1
#include "../sage2_4b.cu"
