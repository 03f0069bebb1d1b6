library(testthat)
library(harmonax)

test_check("harmonax")
