// exp2 rounded once instead of the special function unit's.
#define EXACT_EXP2 1
#include "../sage2_8b_sm90.cu"
