// The denominator sums the quantised P.
#define DENOMINATOR_OF_CODES 1
#include "../sage2_8b_sm90.cu"
