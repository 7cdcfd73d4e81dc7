## Of weights as scale * number + offset: numbers from a codebook, scales and offsets from what is stored of them.

# macro look_up(layout, prefix)
# if layout.codebook
// The numbers of four codes: of two neighbours in the codebook one, by the codes' lowest bits; of those left one, by the
// next bits.
fn ${prefix}_look_up(codes: u32) -> u32 {
# for word in layout.codebook_words
    let left0_${loop.index0} = ${"0x%08xu" % word};
# endfor
# for bit in range(layout.bits)
    let chosen${bit} = ((codes >> ${bit}u) & 0x01010101u) * 255u;
# for i in range(2 ** (layout.bits - bit - 1))
# set a, b = "left%d_%d" % (bit, 2 * i), "left%d_%d" % (bit, 2 * i + 1)
    let left${bit + 1}_${i} = ${a} ^ ((${a} ^ ${b}) & chosen${bit});
# endfor
# endfor
    return left${layout.bits}_0;
}
# endif
# endmacro

# macro scale_functions(layout, prefix)
# for stream in layout.streams
# set unit = "stored." ~ stream.units.name
// ${"The scale and the offset" if stream.pairs else "The " ~ stream.name} of a group.
fn ${prefix}_${stream.name}_of(stored: ${prefix}_Scale, group: u32) -> ${"vec2<f32>" if stream.pairs else "f32"} {
# if stream.layout.unit == "f4"
    let unit = ${unit};
# elif stream.layout.unit == "u1"
# set units = stream.units_per_word
    let first_unit = group / ${stream.layout.span}u % ${units}u * ${32 // units}u;
# for i in range(2 if stream.pairs else 1)
    let exponent${i} = extractBits(${unit}, first_unit + ${8 * i}u, 8u);
    // 2^(exponent - 128), straight into the exponent bits; below 2^-126 they are 0.
    let power${i} = bitcast<f32>(select((exponent${i} - 1u) << 23u, (exponent${i} + 1u) << 21u, exponent${i} < 2u));
# endfor
    let unit = ${"vec2<f32>(power0, power1)" if stream.pairs else "power0"};
# elif stream.pairs
    let unit = unpack2x16float(${unit});
# else
    let two = unpack2x16float(${unit});
    let unit = select(two.x, two.y, (group / ${stream.layout.span}u & 1u) == 1u);
# endif
# if stream.layout.factor
# set per_word = stream.factors_per_word
# set bits = stream.layout.factor_bits
    let bytes = bitcast<${"i32" if stream.layout.factor == "i1" else "u32"}>(stored.${stream.factors.name});
    let first = group % ${per_word}u * ${32 // per_word}u;
# if stream.pairs
    let offset_factor = extractBits(bytes, first + ${bits}u, ${bits}u);
    return unit * vec2<f32>(f32(extractBits(bytes, first, ${bits}u)), f32(offset_factor));
# else
    return unit * f32(extractBits(bytes, first, ${bits}u));
# endif
# else
    return unit;
# endif
}
# endfor
# endmacro
