// Sends UDP datagrams as fast as it can, or at a rate: blast ADDRESS PORT BYTES SECONDS [PER-SECOND].
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>
#include <arpa/inet.h>
#include <sys/socket.h>
int main(int c,char**v){int s=socket(AF_INET,SOCK_DGRAM,0);struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(atoi(v[2]))};a.sin_addr.s_addr=inet_addr(v[1]);int sz=atoi(v[3]);double secs=atof(v[4]),rate=c>5?atof(v[5]):1e12;connect(s,(void*)&a,sizeof a);static char b[2000];struct mmsghdr m[64];struct iovec iv={b,sz};memset(m,0,sizeof m);for(int i=0;i<64;i++){m[i].msg_hdr.msg_iov=&iv;m[i].msg_hdr.msg_iovlen=1;}struct timespec t0,t;clock_gettime(CLOCK_MONOTONIC,&t0);unsigned long n=0;double past=0;do{if(n<=past*rate){int r=sendmmsg(s,m,64,0);if(r>0)n+=r;}else usleep(200);clock_gettime(CLOCK_MONOTONIC,&t);past=(t.tv_sec-t0.tv_sec)+(t.tv_nsec-t0.tv_nsec)/1e9;}while(past<secs);printf("sent=%lu rate=%.0f\n",n,n/secs);}
