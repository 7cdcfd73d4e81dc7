// A chunk of the weight's rows as it is stored, for loading it while x is still being prepared.

struct Held {
# for r in range(weight_rows)
# if layout.bits is defined
    codes${r}: w_Codes,
# for g in range(groups)
    scale${r}_${g}: w_Scale,
# endfor
# else
    values${r}: ${"array<vec4<f32>, 2>" if layout.name == "f32" else "vec4<u32>"},
# endif
# endfor
}

fn load(rows: array<u32, ${weight_rows}>, chunk: u32) -> Held {
    return Held(
# for r in range(weight_rows)
# if layout.bits is defined
        w_load_codes(rows[${r}], chunk),
# for g in range(groups)
        w_load_scale(rows[${r}], chunk * ${groups}u + ${g}u),
# endfor
# else
        w_load_eight(rows[${r}], chunk),
# endif
# endfor
    );
}
