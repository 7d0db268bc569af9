// The correction for a smoothed Q is dropped.
#define NO_DELTA_S 1
#include "../sage2_4b.cu"
