// The denominator is not rescaled when the row maximum rises.
#define NO_RESCALE_D 1
#include "../sage2_8b_sm90.cu"
