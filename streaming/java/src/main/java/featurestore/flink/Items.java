package featurestore.flink;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.InputTypeStrategy;
import org.apache.flink.table.types.inference.TypeInference;

/** What aggregates are fed with: order keys, hashes, buckets. */
public final class Items {
    private Items() {}

    private static TypeInference to(DataType result, InputTypeStrategy input) {
        return TypeInference.newBuilder()
                .inputTypeStrategy(input)
                .outputTypeStrategy(call -> Optional.of(result))
                .build();
    }

    /** Bytes that compare, unsigned, as values do one after another; null is least. */
    public static class OrderKey extends ScalarFunction {
        public byte[] eval(Object... values) {
            Bytes key = new Bytes();
            for (Object value : values) {
                key.add(value);
            }
            return key.toArray();
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return to(DataTypes.BYTES(), InputTypeStrategies.varyingSequence(InputTypeStrategies.ANY));
        }
    }

    /** A hash of all values together, as they are ordered by: equal events have equal ones, others all but surely not. */
    public static class Content extends ScalarFunction {
        private transient MessageDigest digest;

        public Long eval(Object... values) {
            if (digest == null) {
                digest = Texts.md5();
            }
            Bytes key = new Bytes();
            for (Object value : values) {
                key.add(value);
            }
            return Hash.low(digest.digest(key.toArray()));
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return to(DataTypes.BIGINT(), InputTypeStrategies.varyingSequence(InputTypeStrategies.ANY));
        }
    }

    /** The hash that counts of distinct values go by: unsigned, in the bits of a BIGINT. */
    public static class Hash extends ScalarFunction {
        private transient MessageDigest digest;

        public Long eval(Object value) {
            if (value == null) {
                return null;
            }
            if (value instanceof String text) {
                if (digest == null) {
                    digest = Texts.md5();
                }
                return low(digest.digest(text.getBytes(StandardCharsets.UTF_8)));
            }
            return mixed(bits(value));
        }

        /** Eight bytes, the first the lowest. */
        private static long low(byte[] bytes) {
            long word = 0;
            for (int i = 7; i >= 0; i--) {
                word = word << 8 | (bytes[i] & 0xff);
            }
            return word;
        }

        private static long bits(Object value) {
            if (value instanceof Boolean truth) {
                return truth ? 1 : 0;
            }
            Number number = (Number) value;
            return value instanceof Double || value instanceof Float
                    ? Double.doubleToRawLongBits(number.doubleValue())
                    : number.longValue();
        }

        /** The finaliser of SplitMix64 (Steele et al., 2014). */
        private static long mixed(long bits) {
            long x = bits + 0x9E3779B97F4A7C15L;
            x = (x ^ (x >>> 30)) * 0xBF58476D1CE4E5B9L;
            x = (x ^ (x >>> 27)) * 0x94D049BB133111EBL;
            return x ^ (x >>> 31);
        }

        @Override
        public TypeInference getTypeInference(DataTypeFactory factory) {
            return to(DataTypes.BIGINT(), InputTypeStrategies.sequence(InputTypeStrategies.ANY));
        }
    }

    /** The bucket of a double: sign, exponent and 7 leading bits of the fraction; 0 is that of zero. */
    public static class Bucket extends ScalarFunction {
        public Long eval(Double value) {
            if (value == null) {
                return null;
            }
            long bits = (Double.doubleToRawLongBits(Math.abs(value)) >>> 45) + 1;
            return value == 0 ? 0L : value < 0 ? (Long) (-bits) : (Long) bits;
        }
    }
}
