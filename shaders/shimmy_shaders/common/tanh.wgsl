## For numbers or vectors; a type's name in `type`.
# macro functions(type)
// tanh, near 0 by its series (Cephes, tanhf: Moshier 1989), else by an exponential of what is below 0, which cannot
// overflow: some drivers' own tanh of large numbers is NaN.
fn tanh_of(x: ${type}) -> ${type} {
    let square = x * x;
    let series = x + x * square * (((((-5.70498872745e-3 * square + 2.06390887954e-2) * square - 5.37397155531e-2)
        * square + 1.33314422036e-1) * square) - 3.33332819422e-1);
    let e = exp(-2.0 * abs(x));
    return select(sign(x) * (1.0 - e) / (1.0 + e), series, abs(x) < ${type}(0.625));
}
# endmacro
