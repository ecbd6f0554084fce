package featurestore.flink;

import java.math.BigDecimal;
import java.math.BigInteger;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.functions.ScalarFunction;

/** Arithmetic that is total: null where the language says null, never an error, an infinity or a minus zero. */
public final class Numbers {
    private Numbers() {}

    static final long[] POWERS = new long[19];

    static {
        POWERS[0] = 1;
        for (int i = 1; i < POWERS.length; i++) {
            POWERS[i] = 10 * POWERS[i - 1];
        }
    }

    /** NaN and infinities as null, minus zero as zero. */
    static Double finite(double x) {
        return Double.isFinite(x) ? x + 0.0 : null;
    }

    /** An unscaled decimal of at most {@code precision} digits, null if it has more. */
    static Long fit(long unscaled, int precision) {
        return Math.abs(unscaled) < POWERS[precision] && unscaled != Long.MIN_VALUE ? unscaled : null;
    }

    static Long fit(BigInteger unscaled, int precision) {
        return unscaled.bitLength() < 63 ? fit(unscaled.longValue(), precision) : null;
    }

    /** |x| * power rounded half up in doubles, with the sign of x: whole, or an infinity. */
    static double away(double x, double power) {
        double up = Math.floor(Math.abs(x) * power + 0.5);
        return x < 0 ? -up : up;
    }

    /** value / unit, half away from zero. */
    static long rounded(long value, long unit) {
        long up = Math.abs(value) / unit + (Math.abs(value) % unit * 2 >= unit ? 1 : 0);
        return value < 0 ? -up : up;
    }

    public static class AddInt extends ScalarFunction {
        public Long eval(Long a, Long b) {
            if (a == null || b == null) {
                return null;
            }
            long sum = a + b;
            return ((a ^ sum) & (b ^ sum)) < 0 ? null : (Long) sum;
        }
    }

    public static class SubInt extends ScalarFunction {
        public Long eval(Long a, Long b) {
            if (a == null || b == null) {
                return null;
            }
            long difference = a - b;
            return ((a ^ b) & (a ^ difference)) < 0 ? null : (Long) difference;
        }
    }

    public static class MulInt extends ScalarFunction {
        public Long eval(Long a, Long b) {
            if (a == null || b == null) {
                return null;
            }
            long product = a * b;
            return Math.multiplyHigh(a, b) == product >> 63 ? (Long) product : null;
        }
    }

    public static class FloorDiv extends ScalarFunction {
        public Long eval(Long a, Long b) {
            if (a == null || b == null || b == 0 || (a == Long.MIN_VALUE && b == -1)) {
                return null;
            }
            return Math.floorDiv(a, b);
        }
    }

    public static class Mod extends ScalarFunction {
        public Long eval(Long a, Long b) {
            return a == null || b == null || b == 0 ? null : (Long) Math.floorMod(a, b);
        }
    }

    public static class NegInt extends ScalarFunction {
        public Long eval(Long a) {
            return a == null || a == Long.MIN_VALUE ? null : (Long) (-a);
        }
    }

    public static class AbsInt extends ScalarFunction {
        public Long eval(Long a) {
            return a == null || a == Long.MIN_VALUE ? null : (Long) Math.abs(a);
        }
    }

    public static class AddDouble extends ScalarFunction {
        public Double eval(Double a, Double b) {
            return a == null || b == null ? null : finite(a + b);
        }
    }

    public static class SubDouble extends ScalarFunction {
        public Double eval(Double a, Double b) {
            return a == null || b == null ? null : finite(a - b);
        }
    }

    public static class MulDouble extends ScalarFunction {
        public Double eval(Double a, Double b) {
            return a == null || b == null ? null : finite(a * b);
        }
    }

    public static class Div extends ScalarFunction {
        public Double eval(Double a, Double b) {
            return a == null || b == null ? null : finite(a / b);
        }
    }

    public static class NegDouble extends ScalarFunction {
        public Double eval(Double a) {
            return a == null ? null : finite(-a);
        }
    }

    public static class AbsDouble extends ScalarFunction {
        public Double eval(Double a) {
            return a == null ? null : finite(Math.abs(a));
        }
    }

    public static class FloorDouble extends ScalarFunction {
        public Double eval(Double a) {
            return a == null ? null : finite(Math.floor(a));
        }
    }

    public static class CeilDouble extends ScalarFunction {
        public Double eval(Double a) {
            return a == null ? null : finite(Math.ceil(a));
        }
    }

    public static class RoundDouble extends ScalarFunction {
        public Double eval(Double a, Integer digits) {
            return a == null ? null : finite(away(a, POWERS[digits]) / POWERS[digits]);
        }
    }

    public static class Finite extends ScalarFunction {
        public Double eval(Double a) {
            return a == null ? null : finite(a);
        }
    }

    public static class FiniteFloat extends ScalarFunction {
        public Float eval(Float a) {
            return a == null || !Float.isFinite(a) ? null : (Float) (a + 0f);
        }
    }

    /** A constant of 32 bits from its double: Flink's planner would keep one that it computes itself in seven digits. */
    public static class ConstantFloat extends ScalarFunction {
        public Float eval(Double a) {
            return a == null ? null : (Float) a.floatValue();
        }

        @Override
        public boolean supportsConstantFolding() {
            return false;
        }
    }

    /** The whole number itself where it lies between two others, both included. */
    public static class Within extends ScalarFunction {
        public Long eval(Long a, Long low, Long high) {
            return a == null || a < low || a > high ? null : a;
        }
    }

    public static class AddDecimal extends ScalarFunction {
        public Long eval(@DataTypeHint("DECIMAL(38, 0)") BigDecimal a, @DataTypeHint("DECIMAL(38, 0)") BigDecimal b, Integer precision) {
            return a == null || b == null ? null : fit(a.add(b).toBigInteger(), precision);
        }
    }

    public static class SubDecimal extends ScalarFunction {
        public Long eval(@DataTypeHint("DECIMAL(38, 0)") BigDecimal a, @DataTypeHint("DECIMAL(38, 0)") BigDecimal b, Integer precision) {
            return a == null || b == null ? null : fit(a.subtract(b).toBigInteger(), precision);
        }
    }

    public static class MulDecimal extends ScalarFunction {
        public Long eval(@DataTypeHint("DECIMAL(38, 0)") BigDecimal a, @DataTypeHint("DECIMAL(38, 0)") BigDecimal b, Integer precision) {
            return a == null || b == null ? null : fit(a.multiply(b).toBigInteger(), precision);
        }
    }

    /** An unscaled decimal without its last digits, rounded half away from zero. */
    public static class RoundDecimal extends ScalarFunction {
        public Long eval(Long a, Integer digits, Integer precision) {
            return a == null ? null : fit(rounded(a, POWERS[digits]), precision);
        }
    }

    public static class FloorDecimal extends ScalarFunction {
        public Long eval(Long a, Integer scale, Integer precision) {
            return a == null ? null : fit(Math.floorDiv(a, POWERS[scale]), precision);
        }
    }

    public static class CeilDecimal extends ScalarFunction {
        public Long eval(Long a, Integer scale, Integer precision) {
            return a == null ? null : fit(-Math.floorDiv(-a, POWERS[scale]), precision);
        }
    }
}
