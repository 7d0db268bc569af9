// P V of a tile summed in FP16.
#define FP16_ACCUMULATOR 1
#include "../sage2_4b.cu"
