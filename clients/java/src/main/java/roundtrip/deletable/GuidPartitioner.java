package roundtrip.deletable;

import java.util.Map;
import org.apache.kafka.clients.producer.Partitioner;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.InvalidRecordException;
import org.apache.kafka.common.utils.Utils;

/**
 * Chooses the partition that Java's default partitioner chooses for the key without its GUID, so that the
 * messages of one key stay together and in order, and a deletion meets its message.
 *
 * <pre>{@code
 * partitioner.class = roundtrip.deletable.GuidPartitioner
 * }</pre>
 *
 * <p>A key without a GUID counts as a whole. What no compacted topic could make anything of is refused, and
 * {@code send} throws: a record without a key, and one without a value whose key has no GUID.
 */
public final class GuidPartitioner implements Partitioner {
    /** Used by Kafka, which makes one for each producer. */
    public GuidPartitioner() {}

    @Override
    public void configure(Map<String, ?> configs) {}

    /**
     * The partition of a record.
     *
     * @throws InvalidRecordException if the record has no key, or would delete nothing
     */
    @Override
    public int partition(
            String topic, Object key, byte[] keyBytes, Object value, byte[] valueBytes, Cluster cluster) {
        if (keyBytes == null) {
            throw new InvalidRecordException("a record on a compacted topic needs a key");
        }
        var split = WireKey.split(keyBytes);
        if (valueBytes == null && split.isEmpty()) {
            throw new InvalidRecordException("what deletes a message needs its GUID: <key>#<guid>");
        }
        byte[] counts = split.map(WireKey::key).orElse(keyBytes);
        int partitions = cluster.partitionsForTopic(topic).size();
        return Utils.toPositive(Utils.murmur2(counts)) % partitions;
    }

    @Override
    public void close() {}
}
