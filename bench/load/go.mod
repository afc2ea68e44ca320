module keyvault/bench/load

go 1.26
