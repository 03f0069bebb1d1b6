/* Where R keeps a vector's values, so that Python reads and writes them in place.
 *
 * reticulate would do it through NumPy's C interface, which it is compiled against: older versions refuse NumPy 2. An
 * address needs no such agreement.
 */
#include <inttypes.h>
#include <stdio.h>
#include <R.h>
#include <Rinternals.h>
#include <R_ext/Rdynload.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* As text: neither of R's numbers holds every address. */
static SEXP address(SEXP x) {
    char text[32];
    const void *data;
    if (TYPEOF(x) == REALSXP)
        data = REAL(x);
    else if (TYPEOF(x) == INTSXP)
        data = INTEGER(x);
    else
        error("only numbers have an address");
    snprintf(text, sizeof text, "%" PRIuPTR, (uintptr_t)data);
    return mkString(text);
}

/* A matrix nobody else refers to, for Python to fill. */
static SEXP new_matrix(SEXP rows, SEXP columns) {
    SEXP matrix = PROTECT(allocMatrix(REALSXP, asInteger(rows), asInteger(columns)));
#ifdef __linux__
    /* Touching new memory a page at a time can cost as much as a round of Harmony: large pages are 512 times as large. */
    const uintptr_t huge = (uintptr_t)2 << 20, data = (uintptr_t)REAL(matrix);
    const uintptr_t start = (data + huge - 1) / huge * huge;
    const uintptr_t stop = (data + sizeof(double) * (uintptr_t)XLENGTH(matrix)) / huge * huge;
    if (stop > start) madvise((void *)start, stop - start, MADV_HUGEPAGE);
#endif
    UNPROTECT(1);
    return matrix;
}

static const R_CallMethodDef calls[] = {
    {"C_address", (DL_FUNC)&address, 1},
    {"C_new_matrix", (DL_FUNC)&new_matrix, 2},
    {NULL, NULL, 0},
};

void R_init_harmonax(DllInfo *dll) {
    R_registerRoutines(dll, NULL, calls, NULL, NULL);
    R_useDynamicSymbols(dll, FALSE);
}
