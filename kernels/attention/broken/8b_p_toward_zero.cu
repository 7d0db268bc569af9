// P converted to E4M3 toward zero, not to nearest.
#define P_TOWARD_ZERO 1
#include "../sage2_8b_sm90.cu"
